"""The files of a folder in which others are at work: what vanishes meanwhile is not there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def paths_named(folder: Path, name: str) -> list[Path]:
    """The files of a name in a folder and below."""
    return [Path(parent, name) for parent, _, names in os.walk(folder) if name in names]


def statuses(folder: Path) -> list[os.stat_result]:
    """What the system knows of each file in a folder and below."""
    found = []
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found.append(Path(parent, name).stat())
    return found
