"""Puts a file into a daemon's model store where that is a folder of ours, instead of sending it.

A daemon takes whatever lies under ``blobs/sha256-<hex>`` for that blob and never looks whether the
digest is right, so a caller has hashed the file, and it is placed only if it still is that file.
Which folder is the daemon's is not guessed either: a small file is put there, and the daemon asked
for it. Nothing is placed in a folder of another owner, nor through a symbolic link.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from ollama_bridge.client import Client, read_address
from ollama_bridge.daemon.store import blob_folders
from ollama_bridge.errors import DiskFullError

_FULL = (errno.ENOSPC, errno.EDQUOT)
# What says that this file system, or this pair of them, has no hard links for us.
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True)
class FileState:
    """What tells a file from a changed one, without reading it."""

    device: int
    inode: int
    size_bytes: int
    modified_at_ns: int

    @classmethod
    def of(cls, file: Path) -> Self:
        """The state of a file now."""
        found = file.stat()
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


@dataclass(frozen=True)
class PlacedBlob:
    """A blob that we put into the daemon's store, and the state of its source before."""

    how: Literal["linked", "copied"]
    path: Path
    source: Path
    state: FileState

    def restore_time(self) -> None:
        """Give the source its time of change back, which ``create`` sets through a hard link."""
        with contextlib.suppress(OSError):
            now = self.source.stat()
            if self.how == "linked" and now.st_ino == self.state.inode:
                os.utime(self.source, ns=(now.st_atime_ns, self.state.modified_at_ns))


def place_blob(client: Client, source: Path, digest: str, *, state: FileState) -> PlacedBlob | None:
    """Hard-link a file into the daemon's store, else copy it there.

    Args:
        client: Speaks to the daemon.
        source: The file.
        digest: Its digest, ``sha256:<hex>``, which the caller has computed from its bytes.
        state: Of the file, from before it was hashed.

    Returns:
        What was placed; None where the store is not ours to write, or the file has changed: then
        it has to be uploaded, which checks it.

    Raises:
        DiskFullError: no room; nothing of the file is left behind.
        DaemonError: the daemon does not answer.
    """
    if not read_address(client.host).loopback:
        return None
    for folder in _folders_of_ours(client):
        if _has_files_of_others(folder):
            continue
        if not _is_store_of(client, folder):
            continue
        try:
            return _place(source.resolve(), folder / digest.replace(":", "-"), state)
        except OSError as exc:
            _raise_if_full(exc, folder)
            return None
    return None


@contextlib.contextmanager
def taken_back(client: Client, digest: str) -> Iterator[None]:
    """Take a file out of the daemon's store that a daemon of another user cannot use.

    It is back if the block fails: other tags may be made of it.

    Raises:
        DaemonError: the daemon does not answer.
    """
    taken: list[tuple[Path, Path]] = []
    try:
        for folder in _folders_of_ours(client):
            blob = folder / digest.replace(":", "-")
            aside = blob.with_name(f".{blob.name}.aside")  # a starting daemon removes such names
            with contextlib.suppress(OSError):
                if blob.lstat().st_uid == os.geteuid() and _is_store_of(client, folder):
                    blob.rename(aside)
                    taken.append((blob, aside))
        yield
    except BaseException:
        for blob, aside in taken:
            with contextlib.suppress(OSError):
                if not blob.exists():
                    aside.rename(blob)
        raise
    finally:
        for _, aside in taken:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)


def _folders_of_ours(client: Client) -> list[Path]:
    """Where the daemon's files may lie, as far as the folder belongs to who runs this."""
    found = dict.fromkeys(path.resolve() for path in blob_folders(client))
    return [folder for folder in found if _is_ours(folder)]


def _raise_if_full(exc: OSError, folder: Path) -> None:
    if exc.errno in _FULL:  # no --out of ours moves it
        elsewhere = "move the daemon's models to another disk (its OLLAMA_MODELS)"
        raise DiskFullError(folder, elsewhere=elsewhere) from exc


def _has_files_of_others(folder: Path) -> bool:
    """Whether a daemon of another user writes here: it may not be able to use a file of ours."""
    try:
        return any(blob.lstat().st_uid != os.geteuid() for blob in folder.glob("sha256-*"))
    except OSError:
        return True


def _is_ours(folder: Path) -> bool:
    try:
        found = folder.lstat()
    except OSError:
        return False
    # Where others may write too, a name could become a symbolic link under our hands.
    alone = not found.st_mode & stat.S_IWOTH
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and alone


def _is_store_of(client: Client, folder: Path) -> bool:
    """Whether the daemon sees what is put into a folder."""
    content = secrets.token_bytes(32)
    digest = hashlib.sha256(content).hexdigest()
    probe = folder / f"sha256-{digest}"
    try:
        probe.write_bytes(content)
        return client.has_blob(f"sha256:{digest}")
    except OSError as exc:
        _raise_if_full(exc, folder)
        return False
    finally:
        probe.unlink(missing_ok=True)


def _place(source: Path, blob: Path, state: FileState) -> PlacedBlob | None:
    if FileState.of(source) != state or source.stat().st_uid != os.geteuid():
        return None
    how: Literal["linked", "copied"] = "linked"
    try:
        blob.hardlink_to(source)  # fails where the name is taken, be it by a symbolic link
    except OSError as exc:
        if exc.errno not in _NO_LINK:
            raise
        _copy(source, blob)
        how = "copied"
    placed = PlacedBlob(how, blob, source, state)
    try:
        if FileState.of(source) == state:
            # A starting daemon removes blobs that no tag uses yet and that look an hour old.
            os.utime(blob)
            return placed
    except OSError:
        pass
    blob.unlink(missing_ok=True)
    return None


def _copy(source: Path, blob: Path) -> None:
    temporary = blob.with_name(f".{blob.name}.{secrets.token_hex(4)}")
    try:
        with source.open("rb") as reader, temporary.open("xb") as writer:
            shutil.copyfileobj(reader, writer, 8 * 1024**2)
            writer.flush()
            os.fsync(writer.fileno())
        temporary.replace(blob)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
