"""Collects what is wrong with a user's rows, so that all of it is said at once."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Sequence
from itertools import chain, count
from pathlib import Path
from shlex import quote

from ollama_bridge.errors import DataError

MAX_SHOWN = 20
# Rows that miss something are left out up to this share; beyond it the file is another one.
MAX_LEFT_OUT_SHARE = 0.05
_BOMS = {
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    b"\xef\xbb\xbf": "utf-8-sig",
}
# What is no text, by its first bytes.
_NO_TEXTS = {
    b"PK\x03\x04": "a workbook, or another zip archive",
    b"\xd0\xcf\x11\xe0": "a workbook of Excel's old format",
    b"PAR1": "Parquet",
    b"\x1f\x8b": "compressed by gzip",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ": "compressed by xz",
}
_UNPACKED_BY = {"gzip": "gunzip -k", "zstd": "zstd -d", "bzip2": "bunzip2 -k", "xz": "unxz -k"}
_BEGIN_BYTES = 1024
# Letters with accents stand among others: four in a row are of another script.
_NO_ASCII = re.compile(rb"[\x80-\xff]+")
_ROW_OF_SCRIPT = 4
_OF_OTHER_SCRIPTS = (
    "gb18030 or big5 (Chinese), shift_jis (Japanese), cp949 (Korean), cp1251 (Cyrillic), cp1253 "
    "(Greek), cp1255 (Hebrew), cp1256 (Arabic)"
)


class Problems:
    """Problems of one file's rows."""

    def __init__(self, path: Path, *, unit: str) -> None:
        self._path = path
        self._unit = unit
        self._found: list[str] = []

    def add(self, number: int, message: str) -> None:
        """One more."""
        self._found.append(f"{self._unit} {number}: {message}")

    def raise_if_any(self, *, hint: str | None = None) -> None:
        """Raise with the first 20 of them.

        Raises:
            DataError: if there are any.
        """
        if not self._found:
            return
        shown = [f"  - {problem}" for problem in self._found[:MAX_SHOWN]]
        if len(self._found) > MAX_SHOWN:
            shown.append(f"  ... and {len(self._found) - MAX_SHOWN} more")
        raise DataError(
            f"{self._path} has {len(self._found)} problem(s):\n" + "\n".join(shown), hint=hint
        )


def numbers_text(numbers: Sequence[int | str]) -> str:
    """``3, 8, 15`` and, of more than 20, how many more."""
    shown = ", ".join(str(number) for number in numbers[:MAX_SHOWN])
    more = len(numbers) - MAX_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.5) -> str | None:
    """The known name that was probably meant; nothing is like it below a ratio of ``cutoff``."""
    by_folded = {one.casefold(): one for one in known}
    near = difflib.get_close_matches(name.casefold(), list(by_folded), n=1, cutoff=cutoff)
    return by_folded[near[0]] if near else None


def encoding_of(begin: bytes) -> str:
    """The encoding that a file's first bytes tell: of its BOM, else UTF-8."""
    return next((name for bom, name in _BOMS.items() if begin.startswith(bom)), "utf-8")


def read_text(path: Path) -> str:
    """A whole text file: UTF-8 with or without BOM, or UTF-16 with one.

    Raises:
        DataError: missing, unreadable, empty, no text, or in another encoding (naming place and
            likely encoding).
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as exc:
        raise DataError(f"{path}: no such file", hint="check the path") from exc
    except OSError as exc:
        raise DataError(f"{path} cannot be read: {exc.strerror}") from exc
    for begin, kind in _NO_TEXTS.items():
        if data.startswith(begin):
            raise DataError(f"{path} is not text: it is {kind}", hint=_to_text(path, kind))
    encoding = encoding_of(data)
    if encoding != "utf-16" and (wide := _unmarked_utf16(data[:_BEGIN_BYTES])):
        raise DataError(
            f"{path} is {wide} that does not begin with its mark", hint=_to_utf8(path, wide)
        )
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        value = data[exc.start] if exc.start < len(data) else 0
        if encoding == "utf-16":
            raise DataError(f"{path}, line {line}: damaged UTF-16 at byte {exc.start}") from exc
        if b"\0" in data[:_BEGIN_BYTES]:
            raise DataError(
                f"{path} is no text: it has zero bytes", hint="save it as CSV in UTF-8"
            ) from exc
        where = f"{path}, line {line}: byte 0x{value:02x} at offset {exc.start} is not UTF-8"
        if _is_other_script(data):
            raise DataError(
                f"{where}; the file looks like no Western European encoding either",
                hint=f"{_to_utf8(path, 'ENCODING')}, with the file's own for ENCODING: "
                f"{_OF_OTHER_SCRIPTS}",
            ) from exc
        guess = "cp1252" if _is_decodable(data, "cp1252") else "latin-1"
        raise DataError(
            f"{where}; the file looks like {guess}", hint=_to_utf8(path, guess)
        ) from exc
    if not text.strip():
        raise DataError(f"{path} is empty: it has no rows")
    return text


def unused(path: Path) -> Path:
    """A name that no file has, for what a hint's command writes: this one, or a numbered one."""
    numbered = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(2))
    return next(one for one in chain((path,), numbered) if not os.path.lexists(one))


def _unmarked_utf16(begin: bytes) -> str | None:
    """UTF-16 of mostly ASCII: every second byte is zero. None: something else."""
    high, low = begin[::2].count(0), begin[1::2].count(0)
    if max(high, low) <= len(begin) / 4 or min(high, low) > len(begin) / 32:
        return None
    return "utf-16be" if high > low else "utf-16le"


def _to_text(path: Path, kind: str) -> str:
    """What makes text of a file of some kind, which may be a table of texts or of conversations."""
    if unpack := _UNPACKED_BY.get(kind.rpartition(" ")[2]):
        return f"{unpack} {quote(str(path))}"
    if kind == "Parquet":
        old, new = (json.dumps(str(one)) for one in (path, unused(path.with_suffix(".jsonl"))))
        code = f'read_parquet({old}).to_json({new}, orient="records", lines=True)'
        return f"with pandas and pyarrow: python3 -c {quote(f'import pandas; pandas.{code}')}"
    return "save it as CSV, or as JSON lines, in UTF-8"


def _to_utf8(path: Path, encoding: str) -> str:
    new = unused(path.with_name(f"{path.stem}-utf8{path.suffix}"))
    return f"iconv -f {encoding} -t utf-8 {quote(str(path))} > {quote(str(new))}"


def _is_other_script(data: bytes) -> bool:
    """Whether most bytes outside ASCII stand in rows that words of Western Europe do not have."""
    rows = [len(row) for row in _NO_ASCII.findall(data)]
    return 2 * sum(length for length in rows if length >= _ROW_OF_SCRIPT) > sum(rows)


def _is_decodable(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
