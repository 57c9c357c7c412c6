"""A process that is stopped, or a disk that fills up, at one call to the file system."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
