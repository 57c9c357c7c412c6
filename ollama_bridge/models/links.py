"""Has weights in a second folder without their bytes twice."""

from __future__ import annotations

import os
from pathlib import Path


def link_file(source: Path, target: Path) -> None:
    """Link a file, replacing what is there: hard where the file system can, else symbolic.

    A hard link also survives its source: a daemon may prune a blob that an import still needs.
    """
    source = source.resolve()  # files of the hub's cache are links themselves
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, another owner, or none that has hard links
        target.symlink_to(source)
