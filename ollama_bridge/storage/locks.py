"""Locks of folders: one process writes, and whoever looks keeps nobody out."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from ollama_bridge.errors import ArtifactError

_LOOK_S = 0.001  # about as long as `is_locked` shares a lock


def lock_path(folder: Path) -> Path:
    """The lock of a folder; beside it, for a lock inside would be removed with it."""
    return folder.with_name(f".{folder.name}.lock")


@contextlib.contextmanager
def locked(
    lock_path: Path, folder: Path, *, hint: str, on_wait: Callable[[], None] | None = None
) -> Iterator[None]:
    """Hold the lock of a folder while the block runs; the system frees it when its holder dies.

    Args:
        lock_path: A file beside the folder, or in it.
        hint: What to do where another process holds it.
        on_wait: Called once if one does, which is then waited for; None: it is an error.

    Raises:
        ArtifactError: another process holds it, or the file system has no locks.
    """
    with lock_path.open("w") as lock:
        try:
            if not _taken(lock):
                if on_wait is None:
                    raise ArtifactError(f"another process is writing {folder}", hint=hint)
                on_wait()
                fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as exc:  # a network disk, which names no file
            raise ArtifactError(
                f"{lock_path} cannot be locked: {exc.strerror}",
                hint="use a folder on a local disk",
            ) from exc
        yield


def _taken(lock: IO[str]) -> bool:
    """Take a lock, unless another process holds it; one that looks (``is_locked``) does not."""
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if _is_held(lock):
                return False
            time.sleep(_LOOK_S)
        else:
            return True


def _is_held(lock: IO[Any]) -> bool:
    """Whether another process holds a lock, which is looked at by sharing it for an instant."""
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(lock, fcntl.LOCK_UN)
    return False


def is_locked(lock_path: Path) -> bool:
    """Whether a process holds a lock. False as well where that cannot be told."""
    with contextlib.suppress(OSError), lock_path.open("rb") as lock:
        return _is_held(lock)
    return False
