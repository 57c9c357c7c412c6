"""Files of a store: segments that are appended to, and then never written again."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from ollama_bridge.digests import digest_file, digest_text
from ollama_bridge.errors import ArtifactError
from ollama_bridge.label_store.info import KEY_BYTES
from ollama_bridge.storage.atomic_files import raise_if_disk_full, write_text_atomic

LABELS_NAME = "labels.bin"
ROWS_NAME = "rows.bin"
DIGESTS_NAME = "digests.json"
OPEN_NAME = "open"

ROW = np.dtype(
    [
        ("key", f"V{KEY_BYTES}"),
        ("positions", "<u4"),
        ("size_bytes", "<u4"),
        ("crc32", "<u4"),
    ]
)
# A segment is full beyond this; then a new one is begun.
_FULL_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Row:
    """The labels of one row.

    Attributes:
        key: Its content, see ``info.row_key``.
        positions: Supervised ones.
        block: As ``formats`` write it.
    """

    key: bytes
    positions: int
    block: bytes


class Segment:
    """A segment that is read, memory-mapped.

    Raises:
        ArtifactError: its files are missing or do not fit each other.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rows = _read_rows(folder / ROWS_NAME)
        sizes = self._rows["size_bytes"].astype(np.int64)
        self._starts = np.cumsum(sizes) - sizes
        path = folder / LABELS_NAME
        expected, found = int(sizes.sum()), path.stat().st_size if path.is_file() else None
        if found != expected:
            raise ArtifactError(
                f"{path} has {found} bytes, its rows have {expected}", hint=_hint(folder)
            )
        #: Of labels and entries.
        self.size_bytes = expected + self._rows.nbytes
        self._labels = np.memmap(path, np.uint8, "r") if found else np.empty(0, np.uint8)

    def __len__(self) -> int:
        """Rows."""
        return len(self._rows)

    @property
    def positions(self) -> int:
        """Of all rows."""
        return int(self._rows["positions"].sum(dtype=np.int64))

    def keys(self) -> list[bytes]:
        """Of all rows, in order."""
        return keys_of(self._rows)

    def digests(self) -> dict[str, str]:
        """sha256 of its files when it was finished, by name; nothing where that was not kept."""
        try:
            found = json.loads((self.folder / DIGESTS_NAME).read_text(encoding="utf-8"))
            digests = {name: str(found[name]) for name in (LABELS_NAME, ROWS_NAME)}
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return digests if _segment_name(digests) == self.folder.name else {}

    def row(self, number: int) -> Row:
        """One row.

        Raises:
            ArtifactError: its bytes are not those that were written.
        """
        entry, start = self._rows[number], int(self._starts[number])
        block = self._labels[start : start + int(entry["size_bytes"])].tobytes()
        if zlib.crc32(block) != entry["crc32"]:
            raise ArtifactError(
                f"{self.folder / LABELS_NAME} was changed after it was written (row {number})",
                hint=_hint(self.folder),
            )
        return Row(entry["key"].tobytes(), int(entry["positions"]), block)


class SegmentWriter:
    """Appends rows to the open segment of a store, and seals it.

    Whatever a kill tore is cut off at the beginning. One writer at a time: the caller's to see to.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self._folder = store / OPEN_NAME
        self._size_bytes = self._recover() if self._folder.exists() else 0

    def append(self, rows: Sequence[Row]) -> None:
        """Write some rows; they are on disk when this returns.

        Raises:
            DiskFullError: no room; what was there before is kept.
        """
        if self._size_bytes > _FULL_BYTES:
            self.seal()
        entries = np.array(
            [(row.key, row.positions, len(row.block), zlib.crc32(row.block)) for row in rows], ROW
        )
        self._folder.mkdir(exist_ok=True)
        # A row counts when its entry is there, so its labels have to be there before.
        self._size_bytes += _append(self._folder / LABELS_NAME, b"".join(row.block for row in rows))
        _append(self._folder / ROWS_NAME, entries.tobytes())

    def seal(self) -> None:
        """Turn what was appended into a finished segment, named by its content."""
        if not self._folder.exists():
            return
        digests = {name: digest_file(self._folder / name) for name in (LABELS_NAME, ROWS_NAME)}
        write_text_atomic(self._folder / DIGESTS_NAME, json.dumps(digests) + "\n")
        self._folder.replace(self._store / _segment_name(digests))
        self._size_bytes = 0

    def _recover(self) -> int:
        """Cut off what is not whole; returns the size of the labels that are."""
        labels, rows = self._folder / LABELS_NAME, self._folder / ROWS_NAME
        for path in (labels, rows):
            path.touch()
        os.truncate(rows, rows.stat().st_size // ROW.itemsize * ROW.itemsize)
        whole = good_bytes = 0
        with labels.open("rb") as stream:
            for entry in _read_rows(rows):
                block = stream.read(int(entry["size_bytes"]))
                if len(block) != entry["size_bytes"] or zlib.crc32(block) != entry["crc32"]:
                    break
                whole, good_bytes = whole + 1, good_bytes + len(block)
        os.truncate(rows, whole * ROW.itemsize)
        os.truncate(labels, good_bytes)
        return good_bytes


def segments_of(folder: Path) -> Iterator[Segment]:
    """The finished segments of a store or an artefact, by name.

    Raises:
        ArtifactError: one of them is damaged.
    """
    for path in sorted(folder.glob(f"*/{ROWS_NAME}")):
        if path.parent.name != OPEN_NAME:
            yield Segment(path.parent)


def open_rows(store: Path) -> np.ndarray[Any, Any]:
    """(rows,) of :data:`ROW`: the whole ones of the segment under construction."""
    path = store / OPEN_NAME / ROWS_NAME
    return _read_rows(path) if path.exists() else np.empty(0, ROW)


def keys_of(rows: np.ndarray[Any, Any]) -> list[bytes]:
    """The keys of (rows,) of :data:`ROW`."""
    content = rows["key"].tobytes()
    return [content[start : start + KEY_BYTES] for start in range(0, len(content), KEY_BYTES)]


def _segment_name(digests: Mapping[str, str]) -> str:
    return digest_text(f"{digests[LABELS_NAME]} {digests[ROWS_NAME]}")[:16]


def _read_rows(path: Path) -> np.ndarray[Any, Any]:
    try:
        return np.fromfile(path, ROW)
    except (OSError, ValueError) as exc:
        raise ArtifactError(f"{path} cannot be read: {exc}", hint=_hint(path.parent)) from exc


def _append(path: Path, content: bytes) -> int:
    try:
        with path.open("ab") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as exc:
        raise_if_disk_full(exc, path)
        raise
    return len(content)


def _hint(segment: Path) -> str:
    return f"remove the folder to label again: rm -r {quote(str(segment.parent))}"
