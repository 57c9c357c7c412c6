"""``build``: the main job."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ollama_bridge.cli import completion, options, output
from ollama_bridge.cli.progress import shown
from ollama_bridge.errors import ConfigError

if TYPE_CHECKING:
    from ollama_bridge.recipe.config import Recipe


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("build")(build)


def build(
    recipe: options.RecipeArgument,
    data: options.DataOption = None,
    text_col: options.TextColOption = None,
    label_col: options.LabelColOption = None,
    split_col: options.SplitColOption = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Teacher instead of the recipe's: ollama:TAG, hf:ORG/NAME, a folder or GGUF.",
            autocompletion=completion.references,
        ),
    ] = None,
    tag: Annotated[str | None, typer.Option(help="Name of the model in Ollama.")] = None,
    set_: options.SetOption = None,
    out: options.OutOption = None,
    host: options.HostOption = None,
    tensorboard: options.TensorBoardOption = None,
    as_json: options.JSONOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Build a recipe: tune, distil, evaluate, convert, register and prove.

    Run it again to resume after an interruption; finished stages are not repeated.
    With --data, run and tag are named after the file; another file of the same name is refused.

    Examples:
      ollama-bridge build sentiment-quick
      ollama-bridge build sentiment --data mine.csv --text-col review --label-col mood
      ollama-bridge build sentiment --teacher ollama:qwen2.5:0.5b --tag mood
      ollama-bridge build sentiment --set distill.lr=5e-4 --out ./try
    """
    taught = [] if teacher is None else [f"teacher.model={_quoted(teacher)}"]
    loaded = recipe_with_data(
        recipe,
        data=data,
        text_col=text_col,
        label_col=label_col,
        split_col=split_col,
        tag=tag,
        overrides=[*taught, *(set_ or [])],
    )
    from ollama_bridge import pipeline
    from ollama_bridge.evaluation.report import read_markdown
    from ollama_bridge.run_folder import note_origin, run_dir_of

    names_tag = tag is not None or any(one.startswith("export.tag=") for one in set_ or [])
    if data is not None and not (out and names_tag):  # the tag is called as the run would be
        note_origin(run_dir_of(loaded), data, out_dir=out)
    with shown(quiet=quiet, tensorboard=tensorboard) as reporter:
        result = pipeline.build(loaded, out_dir=out, host=host, reporter=reporter)
    if as_json:
        output.data_json(
            {
                "run_dir": result.run_dir,
                "tags": [model.tag for model in result.models],
                "student_bytes": result.student.manifest.files["model.safetensors"].size_bytes,
                "report": dict(result.report.facts),
                "served": dict(result.served.facts) if result.served else None,
                "certificates": [dict(model.facts) for model in result.models],
            }
        )
        return
    output.data(read_markdown(result.report))
    if result.served:
        output.data(read_markdown(result.served))
    for model in result.models:
        output.data(f"{model.tag}: {model.facts['verdict']}")
    output.say(f"artefacts: {result.run_dir}")
    output.say(f'try:       ollama-bridge run {result.models[0].tag} "..."')


def recipe_with_data(
    name: str,
    *,
    data: Path | None,
    text_col: Sequence[str] | None,
    label_col: str | None,
    tag: str | None,
    overrides: list[str],
    split_col: str | None = None,
) -> Recipe:
    """Load a recipe and point it at the user's own data and tag.

    With data of the user's, run and tag are named after the file too (``name_of_data``), so that
    the recipe's own model is not replaced. How many examples a shipped recipe takes of the texts
    that it fetches is no limit for other ones.

    Raises:
        ConfigError: the file does not exist, or options that need ``--data`` come without it.
        RecipeError: problems of the recipe.
    """
    from ollama_bridge.recipe.loading import load_recipe
    from ollama_bridge.run_folder import name_of_data

    changes: list[str] = []
    if data is None:
        if text_col or label_col or split_col:
            raise ConfigError(
                "--text-col, --label-col and --split-col name columns of your own data, and --data "
                "is not given",
                hint=f"ollama-bridge build {quote(name)} --data FILE.csv --text-col ... "
                "--label-col ...",
            )
    else:
        if not data.exists():
            raise ConfigError(
                f"--data {data}: no such file", hint="check the path; CSV and JSONL are read"
            )
        if not data.is_file():  # a folder; or a pipe, which can be read but once
            raise ConfigError(
                f"--data {data}: not a regular file",
                hint="give a file of CSV or JSONL; write what comes through a pipe into one first",
            )
        is_table = bool(text_col) or label_col is not None
        source = "table" if is_table or not _holds_messages(data) else "messages"
        changes += _limits_lifted(name)
        changes += [f"data.source={source}", f"data.path={_quoted(str(data.absolute()))}"]
        if text_col:
            columns = ", ".join(map(_quoted, text_col))
            changes.append(f"data.text_col={columns if len(text_col) == 1 else f'[{columns}]'}")
        if label_col:
            changes.append(f"data.label_col={_quoted(label_col)}")
        if split_col:
            changes.append(f"data.split_col={_quoted(split_col)}")
    if tag:
        changes.append(f"export.tag={_quoted(tag)}")
    recipe = load_recipe(name, overrides=[*changes, *overrides])
    if data is not None:
        slug = name_of_data(data)
        update: dict[str, Any] = {"name": f"{recipe.name}-{slug}"}
        if tag is None and not any(change.startswith("export.tag=") for change in overrides):
            export = recipe.export.model_copy(update={"tag": f"{recipe.export.tag}-{slug}"})
            update["export"] = export
        recipe = recipe.model_copy(update=update)
    return recipe


def _limits_lifted(name: str) -> list[str]:
    """Changes that let a shipped recipe take all examples of a file, if its own are fetched ones.

    A recipe of the user's, and a shipped one that waits for a file, have them for that file.
    """
    from ollama_bridge.assets import list_assets
    from ollama_bridge.recipe.loading import load_recipe

    if name not in list_assets("recipes"):
        return []
    own = load_recipe(name)
    if own.data.path is not None:
        return []
    changes = ["data.max_examples=null"]
    if own.teacher.tune is not None:  # a change of what is not there would make it
        changes.append("teacher.tune.max_examples=null")
    return changes


def _holds_messages(path: Path) -> bool:
    """Whether the first line of a file of JSON lines is a conversation.

    And no row, that has a list of another kind under that name beside its text and label.
    """
    from ollama_bridge.data.chats.forms import find_messages, is_list_of_turns
    from ollama_bridge.data.chats.glaive import is_glaive
    from ollama_bridge.data.problems import encoding_of
    from ollama_bridge.data.rows import is_json_lines

    if not is_json_lines(path):
        return False
    with path.open("rb") as binary:
        encoding = encoding_of(binary.read(4))
    with path.open(encoding=encoding, errors="replace") as stream:
        line = next((line for line in stream if line.strip()), "")
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return False  # what is wrong with it is said where it is read
    turns = find_messages(record) if isinstance(record, dict) else None
    if turns is None:
        return isinstance(record, dict) and is_glaive(record) and "text" not in record
    return is_list_of_turns(turns) or not {"text", "label"} <= set(record)


def _quoted(text: str) -> str:
    """A text as YAML reads it again, which folds a line break and takes no control character."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    kept = (one if one.isprintable() else f"\\U{ord(one):08x}" for one in escaped)
    return f'"{"".join(kept)}"'
