"""The files of a folder in which others are at work: what vanishes meanwhile is not there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def paths_named(folder: Path, name: str) -> list[Path]:
    """The files of a name in a folder and below."""
    return [Path(parent, name) for parent, _, names in os.walk(folder) if name in names]


def statuses(folder: Path, *, of_links: bool = False) -> list[os.stat_result]:
    """What the system knows of each file in a folder and below.

    Args:
        of_links: Of symbolic links themselves, and not of what they lead to.
    """
    found = []
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found.append(Path(parent, name).stat(follow_symlinks=not of_links))
    return found
