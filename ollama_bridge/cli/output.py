"""The one output sink: data on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from ollama_bridge.errors import OllamaBridgeError


def data(text: str) -> None:
    """Print what was asked for."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()


def data_json(value: object) -> None:
    """Print what was asked for, as JSON."""
    data(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def table(rows: Sequence[Mapping[str, object]], *, as_json: bool) -> None:
    """Print rows; on a terminal as a table, in a pipe as tab-separated lines."""
    if as_json:
        data_json(list(rows))
        return
    if not rows:
        return
    columns = list(rows[0])
    if not sys.stdout.isatty():
        data("\n".join("\t".join(str(row[column]) for column in columns) for row in rows))
        return
    view = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        view.add_column(column, overflow="fold")
    for row in rows:
        view.add_row(*(str(row[column]) for column in columns))
    Console().print(view)


def fields(values: Mapping[str, object], *, as_json: bool) -> None:
    """Print one thing's fields, a line each."""
    if as_json:
        data_json(dict(values))
        return
    width = max((len(name) for name in values), default=0)
    data("\n".join(f"{name:<{width}}  {value}" for name, value in values.items()))


def say(text: str) -> None:
    """Tell the user something that is not data."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def fail(error: OllamaBridgeError, *, as_json: bool) -> int:
    """Print an error and what to do about it; returns the exit code."""
    if as_json:
        data_json(
            {
                "error": {
                    "type": type(error).__name__,
                    "message": error.message,
                    "hint": error.hint,
                    "exit_code": error.exit_code,
                }
            }
        )
    say(f"error: {error.message}")
    if error.hint:
        say(f"fix:   {error.hint}")
    return error.exit_code


def size(size_bytes: float) -> str:
    """A size for people: ``85.1 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"
