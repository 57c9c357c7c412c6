"""The files that a recipe asks for, and the tag that each of them gets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ollama_bridge.conversion import Target, convert
from ollama_bridge.quantization.sizes import parse_size
from ollama_bridge.recipe.config import Recipe
from ollama_bridge.reference import noise_types_of
from ollama_bridge.reporting import Reporter
from ollama_bridge.storage.artifacts import Checkpoint, Corpus, GGUFFile


def export(
    recipe: Recipe, student: Checkpoint, corpus: Corpus, run_dir: Path, reporter: Reporter
) -> Iterator[tuple[str, GGUFFile]]:
    """Convert a student to every file, one at a time: the main one first.

    Args:
        recipe: What to build.
        student: The distilled checkpoint.
        corpus: Its held-out texts are what a budget is measured on.
        run_dir: Folder of the run.
        reporter: Hears of progress.

    Yields:
        The tag, and the file that it gets.

    Raises:
        ConversionError: the student cannot be written as asked.
    """
    section = recipe.export
    for gguf_type in section.types:
        out_dir = run_dir / f"student-{gguf_type}"
        gguf = convert(student, type=gguf_type, out_dir=out_dir, reporter=reporter)
        yield tag_of(recipe, gguf_type), gguf
    target = target_of(recipe)
    if target is None:
        return
    out_dir = run_dir / "student-budget"
    gguf = convert(student, target=target, corpus=corpus, out_dir=out_dir, reporter=reporter)
    yield budget_tag_of(recipe), gguf


def noise_types_of_files(recipe: Recipe) -> tuple[str, ...]:
    """Of ``reference.NOISE_TYPES``, those that the files of a recipe are held against.

    Students need no more. A teacher is tuned with the noise of all types: another recipe's files
    must not make it another teacher, whose texts would be labelled again.
    """
    asked = [noise for one in recipe.export.types for noise in noise_types_of(one)]
    return tuple(dict.fromkeys(asked))


def target_of(recipe: Recipe) -> Target | None:
    """The budget or size of a file whose types are chosen for it; None: there is no such file."""
    section = recipe.export
    if section.budget_nats is None and section.max_size is None:
        return None
    size_bytes = parse_size(section.max_size) if section.max_size is not None else None
    return Target(kl_nats=section.budget_nats, size_bytes=size_bytes)


def tag_of(recipe: Recipe, gguf_type: str) -> str:
    """The tag of one GGUF type: ``latest`` for the recipe's first, else the type's own name."""
    first = gguf_type == recipe.export.types[0]
    return f"{recipe.export.tag}:{'latest' if first else gguf_type}"


def teacher_tag_of(recipe: Recipe) -> str:
    """The tag of the teacher, as its student is held against it."""
    return f"{recipe.export.tag}:teacher"


def budget_tag_of(recipe: Recipe) -> str:
    """The tag of the file whose types a budget or a size chooses."""
    return f"{recipe.export.tag}:budget"
