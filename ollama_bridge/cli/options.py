"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ollama_bridge.cli import completion
from ollama_bridge.quantization.file_types import ALL_NAMES

JSONOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
JSONLinesOption = Annotated[
    bool, typer.Option("--json", help="Print lines of JSON on stdout, as things come.")
]
HostOption = Annotated[
    str | None,
    typer.Option(
        "--host", help="Address of the daemon. Default: OLLAMA_HOST, else 127.0.0.1:11434."
    ),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Folder for the artefacts.", file_okay=False)
]
BaseOption = Annotated[
    str | None,
    typer.Option(
        "--base",
        help="Base of a PEFT adapter (model reference). Default: the one that its config names.",
        autocompletion=completion.references,
    ),
]


def _matrix_in(path: Path | None) -> Path | None:
    """The file in a folder that `importance` made."""
    return path / "imatrix.gguf" if path is not None and path.is_dir() else path


ImatrixOption = Annotated[
    Path | None,
    typer.Option(
        "--imatrix",
        help="Importance matrix: a file of llama.cpp's, or the folder that `importance` made.",
        callback=_matrix_in,
    ),
]
BudgetOption = Annotated[
    float | None,
    typer.Option(
        "--budget",
        help="Instead of --type: make the smallest file whose mean KL to the float model, on "
        "held-out text, is at most this many nats, such as 0.01.",
    ),
]
MaxSizeOption = Annotated[
    str | None,
    typer.Option(
        "--max-size",
        help="Instead of --type: make the file of least KL that is at most this large, such as "
        "80MB.",
        metavar="SIZE",
    ),
]
BudgetCorpusOption = Annotated[
    Path | None,
    typer.Option(
        "--corpus",
        help="Folder that `prepare` made, to measure --budget or --max-size on. Default: the "
        "model's own answers.",
        file_okay=False,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a recipe key, such as distill.lr=3e-4. Repeatable."),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", help="Your own data, all of it: CSV or JSONL (text and label, or messages)."
    ),
]
TextColOption = Annotated[
    list[str] | None,
    typer.Option(
        "--text-col", help="Column of the text. Repeatable: joined by a blank line, in this order."
    ),
]
LabelColOption = Annotated[
    str | None, typer.Option("--label-col", help="Column of the label, or of the answer.")
]
SplitColOption = Annotated[
    str | None,
    typer.Option(
        "--split-col",
        help="Column that says train, validation or test; what is missing is drawn from train.",
    ),
]
ForceOption = Annotated[
    bool, typer.Option(help="If the proof fails, keep the model as TAG-unverified.")
]
LinkOption = Annotated[
    bool,
    typer.Option(
        help="Hard-link the file into the daemon's store if that is yours; otherwise upload it."
    ),
]
InsecureOption = Annotated[
    bool, typer.Option("--insecure", help="Speak plain http to a registry of another machine.")
]
LicenseOption = Annotated[
    Path | None, typer.Option("--license", help="Text file to add as licence.", dir_okay=False)
]
ChatTemplateOption = Annotated[
    Path | None,
    typer.Option(
        "--chat-template",
        help="Chat template (.jinja) to use instead of the model's own.",
        dir_okay=False,
    ),
]
TensorBoardOption = Annotated[
    Path | None,
    typer.Option(
        "--tensorboard", help="Also write losses and scores for TensorBoard.", file_okay=False
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress on stderr.")]
RecipeArgument = Annotated[
    str,
    typer.Argument(
        help="A shipped recipe (see `recipes ls`) or a YAML file.",
        autocompletion=completion.recipes,
    ),
]
PrefixArgument = Annotated[
    str,
    typer.Argument(help="List only names that begin with this.", autocompletion=completion.tags),
]
SourceArgument = Annotated[
    str,
    typer.Argument(help="Model reference, usually a folder.", autocompletion=completion.references),
]
TagArgument = Annotated[
    str, typer.Argument(help="A tag in Ollama (see `ls`).", autocompletion=completion.tags)
]


def type_option(default: str) -> Any:
    """``--type``; its value is None where it is not given: it excludes other options."""
    return typer.Option(
        "--type",
        help=f"Type of the GGUF: {ALL_NAMES}. Default: {default}.",
        autocompletion=completion.file_types,
    )


def begins_with(tag: str, prefix: str) -> bool:
    """Whether it is one that ``ls PREFIX`` means: names of one model are one in any case."""
    return tag.casefold().startswith(prefix.casefold())
