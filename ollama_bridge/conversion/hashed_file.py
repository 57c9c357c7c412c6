"""A growing file that is hashed and brought to the disk meanwhile.

Left to the end, both would come on top of the writing. Each follows in a thread of its own; what
is hashed is read back while it is still in memory, so that no writer has to keep what it wrote.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from ollama_bridge.closing import Closing

_HASH_BYTES = 1 << 22
_FLUSH_BYTES = 1 << 26
_READ_BYTES = 1 << 18  # stays in the processor's cache until it is hashed
# Not on macOS.
_to_disk: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)


class HashedFile(Closing):
    """A file that is only appended to, behind what it has already.

    Attributes:
        size_bytes: What it has grown to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size_bytes = path.stat().st_size
        self._sha256 = hashlib.sha256()
        self._hashed_bytes = 0
        with contextlib.ExitStack() as stack:
            self._stream = stack.enter_context(self._path.open("ab", buffering=0))
            self._reader = stack.enter_context(self._path.open("rb", buffering=0))
            self._followers = [
                stack.enter_context(_Follower(self._hash_to, _HASH_BYTES)),
                stack.enter_context(_Follower(self._flush_to, _FLUSH_BYTES)),
            ]
            self._opened = stack.pop_all()

    def close(self) -> None:
        """Stop following; what is not on the disk then may be lost."""
        self._opened.close()

    def write(self, data: memoryview | bytes) -> None:
        """Append.

        Raises:
            OSError: there is no room, which may be that of what was written before.
        """
        rest = memoryview(data)
        while rest:  # one call writes 2 GB at most
            rest = rest[self._stream.write(rest) :]
        self.size_bytes += len(data)
        for follower in self._followers:
            follower.follow(self.size_bytes)

    def finish(self) -> str:
        """Wait until all of it is on the disk; gives its sha256, in hex.

        Raises:
            OSError: as of :meth:`write`.
        """
        for follower in self._followers:
            follower.start(self.size_bytes)
        for follower in self._followers:
            follower.wait()
        return self._sha256.hexdigest()

    def _hash_to(self, end: int) -> None:
        block = memoryview(bytearray(_READ_BYTES))
        while self._hashed_bytes < end:
            count = self._reader.readinto(block[: end - self._hashed_bytes])
            if not count:
                raise OSError(f"{self._path} was cut off while it was written")
            self._sha256.update(block[:count])
            self._hashed_bytes += count

    def _flush_to(self, _end: int) -> None:
        _to_disk(self._stream.fileno())


class _Follower(Closing):
    """Tells ``work`` how far a growing file is, in a thread, some bytes behind."""

    def __init__(self, work: Callable[[int], None], step_bytes: int) -> None:
        self._work = work
        self._step_bytes = step_bytes
        self._thread = ThreadPoolExecutor(1)
        self._end = 0
        self._calls: list[Future[None]] = []

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    def follow(self, size_bytes: int) -> None:
        if size_bytes - self._end < self._step_bytes:
            return
        if self._calls and not self._calls[-1].done():
            return
        self.wait()  # a full disk can show only here
        self.start(size_bytes)

    def start(self, size_bytes: int) -> None:
        self._end = size_bytes
        self._calls.append(self._thread.submit(self._work, size_bytes))

    def wait(self) -> None:
        while self._calls:
            self._calls.pop(0).result()
