"""Questions about paths that users and files name: one that cannot exist is not there, no more."""

from __future__ import annotations

from pathlib import Path


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
