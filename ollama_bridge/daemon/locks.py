"""A lock between processes that waits a finite time; the system frees it when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shlex import quote

from ollama_bridge.errors import DaemonInstallError

_POLL_INTERVAL_S = 0.1


@contextlib.contextmanager
def hold_lock(
    path: Path,
    *,
    limit_s: float,
    doing: str,
    on_wait: Callable[[], None] | None = None,
    moved_by: str = "OLLAMA_BRIDGE_HOME",
) -> Iterator[int]:
    """Hold a lock file while the block runs.

    Args:
        path: The file; made if missing, and left behind.
        limit_s: How long to wait for another holder.
        doing: What the holder does, for the message.
        on_wait: Called once if another process holds the lock.
        moved_by: The variable that names another folder for it.

    Yields:
        The lock's file descriptor; a child that inherits it holds the lock too.

    Raises:
        DaemonInstallError: the other holder did not finish in time, or the file cannot be made
            or locked.
    """
    deadline_s = time.monotonic() + limit_s
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("a")
    except OSError as exc:
        raise DaemonInstallError(
            f"cannot write {path}: {exc.strerror}",
            hint=f"export {moved_by}=/a/folder/you/may/write",
        ) from exc
    with lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as exc:
                if on_wait is not None:
                    on_wait()
                    on_wait = None
                if time.monotonic() >= deadline_s:
                    raise DaemonInstallError(
                        f"another process has been {doing} for more than {limit_s:.0f} s",
                        hint=f"see who holds it: lsof {quote(str(path))}",
                    ) from exc
                time.sleep(_POLL_INTERVAL_S)
            except OSError as exc:  # a network disk, which names no file
                raise DaemonInstallError(
                    f"{path} cannot be locked: {exc.strerror}",
                    hint=f"export {moved_by}=/a/folder/on/a/disk/of/this/machine",
                ) from exc
        yield lock.fileno()
