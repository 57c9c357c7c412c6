"""Questions about paths that users and files name: one that cannot exist is not there, no more."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from ollama_bridge.errors import ModelError

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def is_file(path: Path) -> bool:
    """Whether there is a file; False of a name that no file can have."""
    try:
        return path.is_file()
    except OSError:  # too long for the file system
        return False


def is_dir(path: Path) -> bool:
    """Whether there is a folder; False of a name that no folder can have."""
    try:
        return path.is_dir()
    except OSError:
        return False


def expand_home(text: str) -> Path:
    """The path, with ``~`` expanded where that is anybody's home."""
    try:
        return Path(text).expanduser()
    except (RuntimeError, ValueError):  # ~nobody, and a name that no user can have
        return Path(text)


def dangling(path: Path) -> ModelError | None:
    """Of a link without its file, as in a copied snapshot of the hub's cache; None: it is none."""
    try:
        if not path.is_symlink() or path.exists():
            return None
    except OSError:  # too long for the file system
        return None
    return ModelError(
        f"{path} is a link to {path.readlink()}, which is not there",
        hint="copy what the links lead to, too: cp -rL FROM TO",
    )


def lfs_hint(path: Path) -> str | None:
    """How to get a file that a clone without Git LFS has left out; None: it is none of those.

    In its place are three lines of text: where a damaged file is told, the hint is another.
    """
    try:
        with path.open("rb") as stream:
            if stream.read(len(_LFS_POINTER)) != _LFS_POINTER:
                return None
    except OSError:
        return None
    folder = quote(str(path.parent))
    return f"git has left its content out (Git LFS): git lfs install; git -C {folder} lfs pull"
