"""Reads a recipe: a file, or a shipped one by its name, and what ``--set`` changes in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from pydantic import ValidationError

from ollama_bridge.assets import find_recipe
from ollama_bridge.errors import RecipeError
from ollama_bridge.recipe.config import Recipe
from ollama_bridge.recipe.problems import (
    apply_overrides,
    describe_error,
    problems_by_key,
    read_yaml,
)

# A folder or a GGUF, in the grammar of models; a bare word is none.
_RELATIVE_PATH = re.compile(r"\.\.?(/.*)?|(?![/~]|ollama:|hf:).*\.gguf")
_EXAMPLE = "ollama-bridge recipes show sentiment   (prints one that is right)"


def parse_recipe(
    data: object, *, source: str, overrides: Sequence[str] = (), base_dir: Path | None = None
) -> Recipe:
    """Check a recipe given as plain data.

    Args:
        overrides: ``key.path=value`` texts; what is no text of its own is read as YAML. Epochs
            that are given without ``min_steps`` are taken as given: it is null then.
        base_dir: Folder that paths in ``data`` are relative to; those in ``overrides`` are to the
            current one, but for ``data.path``.

    Raises:
        RecipeError: with every problem found.
    """
    if not isinstance(data, dict):
        problem = "a recipe is a mapping of sections, as YAML writes it"
        raise RecipeError(source, [problem], hint=_EXAMPLE)
    if base_dir is not None:
        data = _beside(data, base_dir)
    problems = apply_overrides(data, [*overrides, *_least_lifted(overrides)], Recipe)
    problems += problems_by_key(data, Recipe)
    if problems:
        raise RecipeError(source, problems, hint=_to_correct(problems, overrides))
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as exc:
        problems = [describe_error(error) for error in exc.errors()]
        hint = _to_correct(problems, overrides)
        raise RecipeError(source, problems, hint=hint) from exc
    path = recipe.data.path
    if path is not None and base_dir is not None and not path.is_absolute():
        section = recipe.data.model_copy(update={"path": base_dir / path})
        recipe = recipe.model_copy(update={"data": section})
    return recipe


def load_recipe(path: Path | str, *, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe file, or a shipped recipe by its name.

    Args:
        path: A YAML file, or the name of a shipped recipe such as ``sentiment``.
        overrides: ``key.path=value`` texts, as for ``--set``.

    Raises:
        RecipeError: not found, no YAML, or with every problem found.
    """
    file = find_recipe(str(path))
    try:
        data = read_yaml(file.read_text(encoding="utf-8"))
    except ValueError as exc:  # no UTF-8, or no YAML
        problem = f"a recipe is YAML, which this is not: {exc}"
        raise RecipeError(str(path), [problem], hint=_EXAMPLE) from exc
    except OSError as exc:
        raise RecipeError(str(path), [f"cannot be read: {exc.strerror}"]) from exc
    return parse_recipe(data, source=str(path), overrides=overrides, base_dir=file.parent)


def _beside(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Models and Modelfile templates that a recipe names by a relative path, from its folder."""
    moved = dict(data)
    for section, key in (("teacher", "model"), ("student", "model"), ("modelfile", "template")):
        inner = moved.get(section)
        if not isinstance(inner, dict) or not isinstance(said := inner.get(key), str):
            continue
        if key == "template":
            is_path = said.endswith(".j2") and (folder / said).is_file()
        else:
            is_path = _RELATIVE_PATH.fullmatch(said) is not None and not inner.get("base_url")
        if is_path and folder != Path():
            moved[section] = {**inner, key: f"{folder.absolute()}/{said}"}
    return moved


def _least_lifted(overrides: Sequence[str]) -> list[str]:
    """Changes that let no small file have more epochs than were given by hand."""
    given = {override.partition("=")[0] for override in overrides}
    return [
        f"{section}.min_steps=null"
        for section in ("teacher.tune", "distill")
        if f"{section}.epochs" in given and f"{section}.min_steps" not in given
    ]


def _to_correct(problems: Sequence[str], overrides: Sequence[str]) -> str:
    """Of what --set changed, what a problem begins with the key of; else a recipe to look at."""
    wrong = [
        f"--set {quote(override)}"
        for override in overrides
        if any(problem.startswith(override.partition("=")[0]) for problem in problems)
    ]
    return f"correct {', '.join(wrong)}" if wrong else _EXAMPLE
