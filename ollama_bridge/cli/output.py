"""The one output sink: data on stdout, everything else on stderr."""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Protocol

from ollama_bridge.errors import OllamaBridgeError

# Exit codes of what Ctrl-C and SIGTERM end, as shells have them.
INTERRUPTED, TERMINATED = 130, 143

# What a terminal obeys instead of showing it, but for tabs and ends of lines.
_CONTROLS = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"}
_CONTROLS |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
# Those of them that JSON does not escape by itself.
_CONTROLS_IN_JSON = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}


class Fail(Protocol):
    """What tells an error."""

    def __call__(self, error: OllamaBridgeError, *, as_json: bool) -> int:
        """As :func:`fail`."""


def print_anything() -> None:
    """Let stdout take what its encoding cannot say, in place of an error in the middle of it.

    Names of files keep the bytes that they have; any other character becomes a question mark.
    """
    codecs.register_error("ollama-bridge", _replaced)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="ollama-bridge")


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("replace")(error)


def visible(text: str) -> str:
    """A text in which control characters are seen, as ``\u241b`` for Esc, and not obeyed.

    Answers, Modelfiles, names and messages are written by others: an escape sequence among them
    could hide or forge what is printed, or write into the clipboard.
    """
    return text.replace("\r\n", "\n").translate(_CONTROLS)


def can_repaint(stream: IO[str]) -> bool:
    """Whether what was written can be painted anew: on a terminal that moves its cursor."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def write(stream: IO[str], text: str) -> None:
    """Write at once; byte for byte unless it is a terminal."""
    stream.write(visible(text) if stream.isatty() else text)
    stream.flush()


def data(text: str) -> None:
    """Print what was asked for."""
    write(sys.stdout, text if text.endswith("\n") else text + "\n")


def data_json(value: object) -> None:
    """Print what was asked for, as one JSON document."""
    _write_json(value, indent=2)


def line_json(value: object) -> None:
    """Print one of many things that were asked for, as a line of JSON."""
    _write_json(value)


def _write_json(value: object, indent: int | None = None) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    text = text.translate(_CONTROLS_IN_JSON)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # JSON can say in ASCII what the stream cannot
        text = json.dumps(value, indent=indent, default=str)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def table(rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows under the names of their columns; in a pipe with tabs between them."""
    if not rows:
        return
    columns = list(rows[0])
    if not sys.stdout.isatty():
        lines = [columns, *([str(row[column]) for column in columns] for row in rows)]
        data("\n".join("\t".join(line) for line in lines))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text  # else brackets would be markup

    view = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        view.add_column(column, overflow="fold")
    for row in rows:
        view.add_row(*(Text(visible(str(row[column]))) for column in columns))
    Console().print(view)


def listing(
    document: Sequence[object], rows: Sequence[Mapping[str, object]], *, as_json: bool
) -> None:
    """Print many things: as a table for people, or as one JSON document."""
    if as_json:
        data_json(document)
    else:
        table(rows)


def fields(
    values: Mapping[str, object], document: Mapping[str, object] | None = None, *, as_json: bool
) -> None:
    """Print one thing's fields, a line each, or as JSON: these, or a document of more."""
    if as_json:
        data_json(dict(values if document is None else document))
        return
    width = max((len(name) for name in values), default=0)
    data("\n".join(f"{name:<{width}}  {value}" for name, value in values.items()))


def either(text: str, document: object, *, as_json: bool) -> None:
    """Print what was asked for: for people, or as one JSON document."""
    if as_json:
        data_json(document)
    else:
        data(text)


def say(text: str) -> None:
    """Tell the user something that is not data."""
    write(sys.stderr, text + "\n")


def fail(error: OllamaBridgeError, *, as_json: bool) -> int:
    """Print an error and what to do about it; returns the exit code."""
    if as_json:
        line_json(_error_document(error))
    say(f"error: {error.message}")
    if error.hint:
        say(f"fix:   {error.hint}")
    return error.exit_code


def interrupted(*, resumes: bool, as_json: bool, code: int) -> None:
    """Tell that Ctrl-C was heard, and of a command that keeps its work how it goes on.

    Args:
        resumes: Whether it does.
        as_json: Whether a program reads it.
        code: With which we end: another one where it was SIGTERM.
    """
    hint = "the same command goes on from here" if resumes else None
    word = "terminated" if code == TERMINATED else "interrupted"
    if as_json:
        line_json(_document(word.capitalize(), word, hint, code))
    say(f"{word}; {hint}" if hint else word)


def _error_document(error: OllamaBridgeError) -> dict[str, object]:
    """An error as programs read it, on stdout in place of what was asked for."""
    return _document(type(error).__name__, error.message, error.hint, error.exit_code)


def _document(kind: str, message: str, hint: str | None, exit_code: int) -> dict[str, object]:
    found = {"type": kind, "message": message, "hint": hint, "exit_code": exit_code}
    return {"error": found}


def size(size_bytes: float) -> str:
    """A size for people: ``85.1 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"
