"""Reads the rows of a CSV or JSONL file as plain mappings, each with its number.

Knows nothing of columns' meaning. CSV rows are numbered as a spreadsheet shows them: the header is
row 1, and a row whose text has line breaks is one row. JSONL rows have their line's number.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from ollama_bridge.data.problems import (
    MAX_LEFT_OUT_SHARE,
    MAX_SHOWN,
    Problems,
    read_text,
    unused,
)
from ollama_bridge.errors import DataError

_DELIMITERS = (",", ";", "\t")
_SEPARATOR_LINE = re.compile(r"\Asep=[,;\t]\r?\n")  # what exporters write for spreadsheets
_JSON_LINES_SUFFIXES = (".jsonl", ".ndjson", ".jsonlines", ".json")


@dataclass(frozen=True)
class Row:
    """One row; ``cells`` has no entry, or None, where a cell is missing."""

    number: int
    cells: Mapping[str, object]


@dataclass(frozen=True)
class Table:
    """All rows of a file.

    Attributes:
        columns: Names, in the file's order.
        rows: At least one.
        unit: What a row is called in messages: row or line.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    unit: str


def read_table(path: Path, *, wanted: Sequence[str]) -> Table:
    """Read a CSV (comma, semicolon or tab; by its header) or a JSONL file.

    Args:
        path: JSONL if its name ends in ``.jsonl``, ``.ndjson``, ``.jsonlines`` or ``.json``, else
            CSV.
        wanted: Columns that tell the right delimiter from the wrong ones.

    Raises:
        DataError: with every problem found.
    """
    text = read_text(path)
    if is_json_lines(path):
        return _read_jsonl(path, text)
    _refuse_array(path, text)
    if text.lstrip().startswith('{"'):
        raise DataError(
            f"{path} holds JSON lines, but its name says CSV",
            hint=f"mv {quote(str(path))} {quote(str(unused(path.with_suffix('.jsonl'))))}",
        )
    with _cells_of_any_length(text):
        return _read_csv(path, text, wanted)


def is_json_lines(path: Path) -> bool:
    """Whether a file's name says that it holds JSON lines."""
    return path.suffix.lower() in _JSON_LINES_SUFFIXES


def read_json_lines(path: Path, text: str) -> Iterator[tuple[int, dict[str, object]]]:
    """Number and object of every line that is not blank.

    ``NaN`` and ``Infinity``, which are no JSON, are None: dataframes write what is missing so.

    Raises:
        DataError: the text is one JSON array; or, after the last good line, with every line that
            is no JSON object.
    """
    _refuse_array(path, text)
    problems = Problems(path, unit="line")
    read, bad = 0, []
    # Not splitlines(): JSON may hold U+2028 and its like inside a text.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        read += 1
        value = _object_of(line)
        if isinstance(value, dict):
            yield number, value
        else:
            problems.add(number, value)
            bad.append(number)
    problems.raise_if_any(hint=_without_lines(path, bad, of=read))


def _object_of(line: str) -> dict[str, object] | str:
    """The object of a line, or what is wrong with it."""
    try:
        value = json.loads(line, parse_constant=lambda _: None)
    except RecursionError:
        return "not JSON (nested too deeply)"
    except json.JSONDecodeError as exc:
        return f"not JSON ({exc.msg})"
    except ValueError:  # Python reads whole numbers up to a length
        return "a number of too many digits: put it in quotes"
    if isinstance(value, dict):
        return value
    return f"a JSON object is expected, not {type(value).__name__}"


def _without_lines(path: Path, bad: Sequence[int], *, of: int) -> str:
    """What makes a file without its bad lines, where these are few."""
    if len(bad) > min(MAX_SHOWN, MAX_LEFT_OUT_SHARE * of):
        return "one JSON object a line"
    deleted = quote(";".join(f"{number}d" for number in bad))
    good = quote(str(unused(path.with_name(f"{path.stem}-whole{path.suffix}"))))
    return f"mend, or leave them out: sed {deleted} {quote(str(path))} > {good}"


def cell_text(value: str | float) -> str:
    """A text as it is; another value as JSON writes it, but a whole number without its ``.0``.

    Dataframes write whole numbers as fractions where one of a column is missing.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return json.dumps(value)


def _refuse_array(path: Path, text: str) -> None:
    """Raise where a text is a JSON array of rows, whatever its file is called.

    Raises:
        DataError: with the command that writes its items as lines.
    """
    begin = text.lstrip()
    if begin.startswith("[") and begin[1:].lstrip().startswith("{"):
        lines = unused(path.with_name(f"{path.stem}-lines.jsonl"))
        raise DataError(
            f"{path} is one JSON array, but one JSON object per line is expected",
            hint=f"jq -c '.[]' {quote(str(path))} > {quote(str(lines))}",
        )


@contextlib.contextmanager
def _cells_of_any_length(text: str) -> Iterator[None]:
    """Let a cell be as long as its file: Python's limit of 131,072 characters is the process's."""
    limit = csv.field_size_limit()
    csv.field_size_limit(max(limit, len(text)))
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _read_jsonl(path: Path, text: str) -> Table:
    rows = [Row(number, cells) for number, cells in read_json_lines(path, text)]
    columns = dict.fromkeys(name for row in rows for name in row.cells)
    return Table(tuple(columns), tuple(rows), "line")


def _read_csv(path: Path, text: str, wanted: Sequence[str]) -> Table:
    text = _SEPARATOR_LINE.sub("\n", text)  # a blank row in its place, for the rows' numbers
    delimiter = _find_delimiter(path, text, wanted)
    # A quote behind a blank is otherwise not read as one.
    is_spaced = _is_spaced(_header(path, text, delimiter, is_spaced=False), text, delimiter)
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        skipinitialspace=is_spaced,
        strict=True,
    )
    problems = Problems(path, unit="row")
    columns: tuple[str, ...] = ()
    rows = []
    number = 0
    try:
        for number, cells in enumerate(reader, start=1):
            if not any(cell.strip() for cell in cells):
                continue  # a blank line; a row of empty cells says nothing either
            if not columns:
                columns = tuple(name.strip() for name in cells)
                continue
            surplus = cells[len(columns) :]
            if any(cell.strip() for cell in surplus):
                why = f"a text with {_name(delimiter)} in it needs quotes"
                if any(map(_is_quoted_behind_blank, cells)):
                    why = "quotes begin a text only where no blank is before them"
                problems.add(
                    number, f"{len(cells)} cells, but the header has {len(columns)} ({why})"
                )
                continue
            rows.append(Row(number, dict(zip(columns, cells, strict=False))))
    except csv.Error as exc:
        raise DataError(
            f"{path}, row {number + 1} (it ends in line {reader.line_num}): not readable as CSV: "
            f"{exc}",
            hint='a quoted text must be closed, and a quote inside it written twice: "say ""hi"""',
        ) from exc
    problems.raise_if_any()
    if not rows:
        raise DataError(f"{path} has a header but no rows", hint="add rows below the header")
    twice = sorted({name for name in columns if name and columns.count(name) > 1} & set(wanted))
    if twice:
        raise DataError(f"{path}: the header has column {twice[0]!r} more than once")
    return Table(columns, tuple(rows), "row")


def _is_spaced(names: Sequence[str], text: str, delimiter: str) -> bool:
    """Whether blanks behind delimiters are no part of the cells, as a file's header tells."""
    if any(map(_is_quoted_behind_blank, names)):
        return True
    if len(names) < 2 or not all(name.startswith(" ") for name in names[1:]):
        return False
    stream = io.StringIO(text, newline="")
    try:
        for _ in csv.reader(stream, delimiter=delimiter, skipinitialspace=True, strict=True):
            pass
    except csv.Error:
        return False  # its quotes are what somebody wrote: "so" he said
    return True


def _is_quoted_behind_blank(cell: str) -> bool:
    return cell[:1] == " " and cell.lstrip(" ")[:1] == '"'


def _find_delimiter(path: Path, text: str, wanted: Sequence[str]) -> str:
    def fit(delimiter: str) -> tuple[int, int]:
        names = [name.strip() for name in _header(path, text, delimiter, is_spaced=True)]
        return (len(set(wanted) & set(names)), len(names))

    return max(_DELIMITERS, key=fit)  # the first of the best: the comma wins a draw


def _header(path: Path, text: str, delimiter: str, *, is_spaced: bool) -> list[str]:
    stream = io.StringIO(text, newline="")
    reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=is_spaced)
    try:
        return next((cells for cells in reader if any(cell.strip() for cell in cells)), [])
    except csv.Error as exc:
        raise DataError(f"{path}, row 1: not readable as CSV: {exc}") from exc


def _name(delimiter: str) -> str:
    return {",": "a comma", ";": "a semicolon", "\t": "a tab"}[delimiter]
