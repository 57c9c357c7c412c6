"""Files that are there whole or not at all: a new one takes the place of an old one at the end.

It is for the same readers as the old one. Also brings to the disk what has its place already.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import json
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from ollama_bridge.assets import disk_full
from ollama_bridge.digests import JSONValue
from ollama_bridge.errors import ArtifactError


def write_text_atomic(path: Path, text: str, *, private: bool = False) -> None:
    """Write a file so that a reader sees the old text or the new one, never half of it.

    Half a surrogate pair, which a server's JSON may hold and UTF-8 cannot, becomes a ``?``.

    Args:
        path: Of the file; where it is a link, what that leads to is written.
        text: What shall stand in it.
        private: A new file is for its owner alone; an old one keeps its permissions anyway.

    Raises:
        DiskFullError: there is no room; the old file is untouched.
    """
    with open_atomic(path, private=private) as stream:
        stream.write(text)


@contextlib.contextmanager
def open_atomic(path: Path, *, private: bool = False) -> Iterator[TextIO]:
    """A file to be written piece by piece, see :func:`write_text_atomic`.

    It is there when the block ends well, and the old one stays if it does not.

    Raises:
        DiskFullError: there is no room; the old file is untouched.
    """
    try:
        with replacement_of(path, private=private) as stream:
            yield stream
    except OSError as exc:
        raise_if_disk_full(exc, path)
        raise


def write_json_atomic(path: Path, value: JSONValue) -> None:
    """Write a value as JSON that people can read, see :func:`write_text_atomic`."""
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_json_lines_atomic(path: Path, values: Iterable[JSONValue]) -> None:
    """Write a value a line, one after the other, see :func:`write_text_atomic`."""
    with open_atomic(path) as stream:
        for value in values:
            stream.write(json.dumps(value, ensure_ascii=False) + "\n")


def read_json_lines(path: Path) -> list[JSONValue]:
    """What :func:`write_json_lines_atomic` wrote."""
    # Not splitlines(): a text may hold U+2028 and its like.
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def raise_if_disk_full(exc: OSError, path: Path) -> None:
    """Turn "no space left" and its like into errors that say what to do; leave others alone."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        raise disk_full(path) from exc
    if exc.errno == errno.EFBIG:
        raise ArtifactError(
            f"a file of {path} is larger than its disk takes (FAT32: 4 GB) or `ulimit -f` allows",
            hint="pass --out DIR on another disk; what is finished is kept",
        ) from exc


@contextlib.contextmanager
def replacement_of(path: Path, *, private: bool = False) -> Iterator[TextIO]:
    """A file that takes its place when the block ends well; else the old one stays.

    What UTF-8 cannot say becomes a ``?``.

    Args:
        path: Of the file; where it is a link, what that leads to is replaced. What is no file, as
            a pipe or ``/dev/null``, is written to instead: another program has it, or all have.
        private: A new file is for its owner alone; an old one keeps its permissions anyway.

    Raises:
        OSError: it cannot be written.
    """
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8", errors="replace") as stream:
            yield stream
        return
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
