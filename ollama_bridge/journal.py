"""An append-only file of records that survives a kill at any moment.

For work that is done one request at a time: what was written is never done again.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ollama_bridge.artifacts import raise_if_disk_full
from ollama_bridge.errors import ArtifactError

JSONRecord = dict[str, Any]  # whatever json.loads gives


class Journal:
    """Records as JSON lines, each synced to disk before :meth:`append` returns.

    A last line that a kill tore is cut off when the file is opened again.

    Args:
        path: Made if missing.

    Raises:
        ArtifactError: a line other than the last is damaged.
        DiskFullError: no room.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.records: list[JSONRecord] = self._load() if path.exists() else []
        try:
            # Without a buffer: what could not be written must not be tried again at closing.
            self._stream = path.open("ab", buffering=0)
        except OSError as exc:
            raise_if_disk_full(exc, path)
            raise

    def append(self, record: Mapping[str, object]) -> None:
        """Add one record.

        Raises:
            DiskFullError: no room; the record is not in the file.
        """
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        good_end = self._stream.seek(0, os.SEEK_END)
        try:
            if self._stream.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
            os.fsync(self._stream.fileno())
        except OSError as exc:
            os.truncate(self._path, good_end)
            raise_if_disk_full(exc, self._path)
            raise
        self.records.append(dict(record))

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def __enter__(self) -> Self:
        """Enter the block that closes the file at its end."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()

    def _load(self) -> list[JSONRecord]:
        records = []
        good_end = 0
        lines = self._path.read_bytes().split(b"\n")
        for number, line in enumerate(lines[:-1], start=1):  # behind the last newline: torn
            try:
                records.append(json.loads(line))
            except (json.JSONDecodeError, UnicodeDecodeError) as exc:
                if number == len(lines) - 1:
                    break  # the newline came to disk before the rest of its line
                raise ArtifactError(
                    f"{self._path}, line {number} is damaged",
                    hint=f"start this stage afresh: rm -r {self._path.parent}",
                ) from exc
            good_end += len(line) + 1
        os.truncate(self._path, good_end)
        return records
