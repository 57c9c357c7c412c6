"""``embed``: the vectors of texts."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from ollama_bridge.cli import options, output
from ollama_bridge.cli.connecting import connect
from ollama_bridge.cli.piped import whole_prompt
from ollama_bridge.cli.progress import ConsoleReporter
from ollama_bridge.cli.question_options import (
    KeepAliveOption,
    ParameterOption,
    read_keep_alive,
    read_options,
)
from ollama_bridge.errors import DataError, OllamaBridgeError
from ollama_bridge.reporting import Progress

if TYPE_CHECKING:
    from ollama_bridge.client import Embeddings

TruncateOption = Annotated[
    bool, typer.Option("--truncate", help="Embedding models only: cut a text that is too long.")
]
DimensionsOption = Annotated[
    int | None,
    typer.Option(help="Embedding models only: length of the vector, if the model lets you choose."),
]


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("embed")(embed)


def embed(
    tag: options.TagArgument,
    texts: Annotated[
        list[str] | None,
        typer.Argument(help="Texts to embed. Default: the lines of stdin, none of them empty."),
    ] = None,
    parameter: ParameterOption = None,
    truncate: TruncateOption = False,
    dimensions: DimensionsOption = None,
    keepalive: KeepAliveOption = None,
    host: options.HostOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document, with counts and times.")
    ] = False,
    quiet: options.QuietOption = False,
) -> None:
    """Print the vector of each text as a line of JSON, as soon as it is there.

    Examples:
      ollama-bridge embed nomic-embed-text "Works like a charm." "It broke."
      ollama-bridge embed nomic-embed-text < texts.txt > vectors.jsonl
    """
    asked = texts or _lines(whole_prompt("", command="embed", tag=tag), tag)
    given, alive = read_options(parameter), read_keep_alive(keepalive)
    with connect(host) as client:
        vectors = client.embed_parts(
            tag,
            asked,
            truncate=truncate,
            dimensions=dimensions,
            options=given,
            keep_alive=alive,
        )
        print_vectors(vectors, len(asked), as_json=as_json, quiet=quiet)


def print_vectors(
    found: Iterable[Embeddings], count: int, *, as_json: bool, quiet: bool = False
) -> None:
    """Print vectors as they come; on a terminal they are seen to, elsewhere there is a bar."""
    from ollama_bridge.client.embedding import joined

    are_seen = sys.stdout.isatty() and not as_json
    parts: list[Embeddings] = []
    done = 0
    with ConsoleReporter(quiet=quiet or are_seen or count == 1) as reporter:
        reporter.emit(Progress("embed", 0, count, "texts"))
        try:
            for part in found:
                for place in part.cut:
                    number = done + place + 1
                    output.say(f"(text {number} was cut: it is longer than the model can read)")
                if as_json:
                    parts.append(part)
                for vector in part.vectors:
                    if not as_json:
                        output.line_json(vector)
                    done += 1
                reporter.emit(Progress("embed", done, count, "texts"))
        except (OllamaBridgeError, KeyboardInterrupt):
            if done and not as_json:
                output.say(f"({done} vectors were printed; the next text is number {done + 1})")
            raise
    if as_json:
        output.line_json(asdict(joined(parts)))


def _lines(piped: str, tag: str) -> list[str]:
    """Texts to embed: the lines up to the last that is not empty, whose vectors have their numbers.

    Raises:
        DataError: one between them is empty.
    """
    lines = piped.split("\n")
    while not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise DataError(
                f"line {number} of stdin is empty: it gets no vector, so every later vector would "
                "be off by one line",
                hint=f"grep '[^[:space:]]' FILE | ollama-bridge embed {quote(tag)}",
            )
    return lines
