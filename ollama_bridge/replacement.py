"""Puts a new file in the place of an old one: whole or not at all, and for the same readers.

Also brings to the disk what has its place already.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


@contextlib.contextmanager
def replacement_of(path: Path, *, private: bool = False) -> Iterator[TextIO]:
    """A file that takes its place when the block ends well; else the old one stays.

    What UTF-8 cannot say becomes a ``?``.

    Args:
        path: Of the file; where it is a link, what that leads to is replaced.
        private: A new file is for its owner alone; an old one keeps its permissions anyway.

    Raises:
        OSError: it cannot be written.
    """
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
    first_mode = 0o600 if private or mode is not None else 0o666
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    _remove_leftovers(target)
    try:
        with open(  # that of a path has no opener
            temporary,
            "w",
            encoding="utf-8",
            errors="replace",
            opener=lambda name, flags: os.open(name, flags, first_mode),
        ) as stream:
            with contextlib.suppress(OSError):  # not every file system has locks
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if mode is not None:
                with contextlib.suppress(OSError):  # on a share every file may be another user's
                    os.fchmod(stream.fileno(), mode)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            temporary.replace(target)  # with the lock on it: nobody takes it for a leftover
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_to_disk(path: Path) -> None:
    """Bring a file's contents or a folder's names to the disk.

    A file that was synced may still have no name there. A file system that cannot sync folders
    (one that a virtual machine shares) has nothing to wait for.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(handle)


def _remove_leftovers(path: Path) -> None:
    """What writers of a file left that were killed; one that still writes holds a lock on it."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.[0-9]*.tmp"):
        with contextlib.suppress(OSError), left.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()
