"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ollama_bridge.cli import completion
from ollama_bridge.quantization.file_types import ALL_NAMES

JSONOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
JSONLinesOption = Annotated[
    bool, typer.Option("--json", help="Print lines of JSON on stdout, as things come.")
]
HostOption = Annotated[
    str | None,
    typer.Option("--host", help="Address of the daemon. Default: OLLAMA_HOST, else the usual."),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Folder of the artefacts.", file_okay=False)
]
TypeOption = Annotated[
    str, typer.Option("--type", help=f"{ALL_NAMES}.", autocompletion=completion.file_types)
]
BaseOption = Annotated[
    str | None,
    typer.Option(
        "--base",
        help="Of a PEFT adapter: model reference of what it was trained on; left out: what it "
        "names.",
    ),
]
ImatrixOption = Annotated[
    Path | None,
    typer.Option(
        "--imatrix",
        help="Importance matrix (`importance` makes one; llama.cpp's work too).",
        dir_okay=False,
    ),
]
BudgetOption = Annotated[
    float | None,
    typer.Option(
        "--budget",
        help="Instead of --type: the smallest file whose mean KL to the float model, on held-out "
        "text, stays within so many nats (0.01).",
    ),
]
MaxSizeOption = Annotated[
    str | None,
    typer.Option(
        "--max-size",
        help="Instead of --type: the file of least KL that is no larger than this (80MB).",
        metavar="SIZE",
    ),
]
BudgetCorpusOption = Annotated[
    Path | None,
    typer.Option(
        "--corpus",
        help="Folder that `prepare` made, to measure --budget or --max-size on; left out: the "
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
LabelColOption = Annotated[str | None, typer.Option("--label-col", help="Column of the label.")]
LinkOption = Annotated[
    bool,
    typer.Option(help="Hard-link into the daemon's store where it is ours; else upload."),
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
        "--chat-template", help="A chat template (.jinja), in place of its own.", dir_okay=False
    ),
]
TensorBoardOption = Annotated[
    Path | None,
    typer.Option(
        "--tensorboard", help="Also write losses and scores for TensorBoard.", file_okay=False
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
RecipeArgument = Annotated[
    str,
    typer.Argument(
        help="A shipped recipe (see `recipes ls`) or a YAML file.",
        autocompletion=completion.recipes,
    ),
]
PrefixArgument = Annotated[
    str, typer.Argument(help="Only those whose names begin so.", autocompletion=completion.tags)
]
TagArgument = Annotated[
    str, typer.Argument(help="A tag in Ollama (see `ls`).", autocompletion=completion.tags)
]


def begins_with(tag: str, prefix: str) -> bool:
    """Whether it is one that ``ls PREFIX`` means: names of one model are one in any case."""
    return tag.casefold().startswith(prefix.casefold())
