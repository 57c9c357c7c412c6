"""A process that is stopped, a disk that fills up, or a power cut, at one call to the disk."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_CALLS = ("open", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir")
_NEEDS_ROOM = ("open", "fsync", "mkdir")


class Killed(BaseException):
    """Stands for SIGKILL: nothing that handles errors handles it."""


@contextmanager
def killed_at(step: int) -> Iterator[None]:
    """Raise Killed at the call of that number, and at each that cleaning up would make after it."""

    def stop(name: str, number: int) -> None:
        if number >= step:
            raise Killed(f"call {number}, {name}")

    with _watched(stop):
        yield


@contextmanager
def disk_full_from(step: int) -> Iterator[None]:
    """From that call on nothing can be made or grow; what is there can be moved and removed."""

    def stop(name: str, number: int) -> None:
        if number >= step and name in _NEEDS_ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with _watched(stop):
        yield


@contextmanager
def _watched(stop: Callable[[str, int], None]) -> Iterator[None]:
    number = 0

    def watch(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            nonlocal number
            number += 1
            stop(name, number - 1)
            return call(*args, **kwargs)

        return watched

    with pytest.MonkeyPatch.context() as patch:
        for name in _CALLS:
            patch.setattr(os, name, watch(name, getattr(os, name)))
        patch.setattr(io, "open", watch("open", io.open))
        yield


class Disk:
    """What of files and folders has come to the disk.

    Attributes:
        renamed: Names that files and folders were given.
    """

    def __init__(self) -> None:
        self.renamed: list[str] = []
        self._synced: dict[int, object] = {}

    def take(self, file: int) -> None:
        """An open file or folder was synced as it is now."""
        self._synced[os.fstat(file).st_ino] = _state(file)

    def has(self, path: Path) -> bool:
        """Whether a file has not changed since it was synced, and no name came into a folder."""
        synced, now = self._synced.get(path.stat().st_ino), _state(path)
        if isinstance(synced, frozenset) and isinstance(now, frozenset):
            return now <= synced
        return synced == now

    def lacks(self, path: Path) -> list[str]:
        """What of a file, or of a folder with all that is in it, a power cut would take."""
        below = sorted(path.rglob("*")) if path.is_dir() else []
        return [str(one) for one in (path, *below) if not self.has(one)]


@contextmanager
def power_may_fail() -> Iterator[Disk]:
    """Every rename has to find what it moves on the disk: a power cut may keep the name alone.

    A manifest has to find whatever it vouches for there, too, and a folder that was moved the name
    that it has now.
    """
    disk = Disk()
    folders: list[Path] = []

    def sync(file: int, call: Callable[[int], None] = os.fsync) -> None:
        call(file)
        disk.take(file)

    def watch(call: Callable[..., None]) -> Callable[..., None]:
        def move(source: str | Path, target: str | Path) -> None:
            moved, named = Path(source), Path(target)
            assert disk.lacks(moved) == []
            if named.name == "manifest.json":
                beside = [one for one in named.parent.iterdir() if one.name[0] != "."]
                kept = [one for one in beside if not one.name.startswith("resume")]
                assert [lost for one in kept for lost in disk.lacks(one)] == []
            call(source, target)
            disk.renamed.append(named.name)
            if named.is_dir():
                folders.append(named)

        return move

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", sync)
        for name in ("rename", "replace"):
            patch.setattr(os, name, watch(getattr(os, name)))
        yield disk
    assert all(disk.has(folder.parent) for folder in folders)


def _state(of: int | Path) -> object:
    found = os.stat(of)  # noqa: PTH116  of an open file as well
    if stat.S_ISDIR(found.st_mode):
        return frozenset(os.listdir(of))  # noqa: PTH208
    return found.st_mtime_ns, found.st_size
