"""Append-only files of records that survive a kill at any moment.

For work that is done one request at a time: what was written is never done again.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from ollama_bridge.closing import Closing
from ollama_bridge.errors import ArtifactError
from ollama_bridge.storage.atomic_files import raise_if_disk_full, replacement_of, sync_to_disk

JSONRecord = dict[str, Any]  # whatever json.loads gives
Place = tuple[int, int]  # where a line begins, and its length in bytes


class SyncedLines:
    """A file of JSON lines, each synced to disk before :meth:`append` returns.

    A last line that a kill tore is cut off when the file is opened again.

    Args:
        path: Made if missing.
        on_record: Called with every record that is there, and its place.
        begins: How every line does. A torn line that is all that a file has is cut off only where
            it is one of these: else it is somebody's.

    Raises:
        ArtifactError: a line other than the last is damaged, or it is another file.
        DiskFullError: no room.
    """

    def __init__(
        self, path: Path, on_record: Callable[[JSONRecord, Place], None], *, begins: bytes = b"{"
    ) -> None:
        self._path = path
        self._begins = begins
        is_new = not path.exists()
        if not is_new:
            self._load(on_record)
        try:
            # Without a buffer: what could not be written must not be tried again at closing.
            self._stream = path.open("a+b", buffering=0)
            if is_new:
                sync_to_disk(path.absolute().parent)
        except OSError as exc:
            raise_if_disk_full(exc, path)
            raise

    def append(self, record: Mapping[str, object]) -> Place:
        """Add one record; returns its place.

        Raises:
            DiskFullError: no room; the record is not in the file.
        """
        # Half a surrogate pair may come from a daemon; json.loads reads it back.
        line = json.dumps(record, ensure_ascii=False).encode(errors="surrogatepass") + b"\n"
        good_end = self._stream.seek(0, os.SEEK_END)
        try:
            if self._stream.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
            os.fsync(self._stream.fileno())
        except OSError as exc:
            os.ftruncate(self._stream.fileno(), good_end)
            raise_if_disk_full(exc, self._path)
            raise
        if not os.fstat(self._stream.fileno()).st_nlink:
            raise ArtifactError(
                f"{self._path} was removed while it was being written: its contents would be lost",
                hint="run it again",
            )
        return good_end, len(line)

    def read(self, place: Place) -> JSONRecord:
        """The record at a place. Another thread may be appending."""
        start, size_bytes = place
        record: JSONRecord = json.loads(os.pread(self._stream.fileno(), size_bytes, start))
        return record

    def keep_only(self, is_kept: Callable[[JSONRecord], bool]) -> None:
        """Forget the other records: in one rename, so that a kill leaves all or these.

        Raises:
            OSError: the smaller file cannot be written; all are kept.
        """
        with replacement_of(self._path) as kept, self._path.open("rb") as lines:
            for line in lines:
                if is_kept(json.loads(line)):
                    kept.buffer.write(line)
        sync_to_disk(self._path.absolute().parent)
        forgetful = self._path.open("a+b", buffering=0)
        self._stream.close()
        self._stream = forgetful

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _load(self, on_record: Callable[[JSONRecord, Place], None]) -> None:
        good_end, torn_line = 0, 0
        with self._path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if torn_line:
                    raise ArtifactError(
                        f"{self._path}, line {torn_line} is damaged",
                        hint=f"start this stage afresh: rm {quote(str(self._path))}",
                    )
                record = _parse(line)
                if record is None and number == 1 and not self._may_be_ours(line):
                    raise ArtifactError(
                        f"{self._path} is a file of another kind: none that ollama-bridge writes "
                        "begins like this",
                        hint="name a file that is not there yet",
                    )
                if record is None:
                    torn_line = number
                else:
                    on_record(record, (good_end, len(line)))
                    good_end += len(line)
        os.truncate(self._path, good_end)

    def _may_be_ours(self, line: bytes) -> bool:
        """Whether a torn line may be one of these; what was not written yet may be zeros."""
        length = min(len(line), len(self._begins))
        return line[:length] == self._begins[:length] or line.startswith(b"\0")


def _parse(line: bytes) -> JSONRecord | None:
    """A whole line's record; the newline may also have come to disk before the rest of it."""
    if not line.endswith(b"\n"):
        return None
    try:
        record: JSONRecord = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        return None
    return record


class Journal(Closing):
    """Few records, all of them in memory; see :class:`SyncedLines`.

    Args:
        path: Made if missing.

    Raises:
        ArtifactError: a line other than the last is damaged.
        DiskFullError: no room.
    """

    def __init__(self, path: Path) -> None:
        self.records: list[JSONRecord] = []
        self._lines = SyncedLines(path, lambda record, _: self.records.append(record))

    def append(self, record: Mapping[str, object]) -> None:
        """Add one record.

        Raises:
            DiskFullError: no room; the record is not in the file.
        """
        self._lines.append(record)
        self.records.append(dict(record))

    def keep_only(self, is_kept: Callable[[JSONRecord], bool]) -> None:
        """Forget the other records, at once or, where that cannot be written, not now."""
        kept = [record for record in self.records if is_kept(record)]
        if len(kept) == len(self.records):
            return
        with contextlib.suppress(OSError):
            self._lines.keep_only(is_kept)
            self.records = kept

    def close(self) -> None:
        """Close the file."""
        self._lines.close()
