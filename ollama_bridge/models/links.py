"""Has weights in a second folder without their bytes twice."""

from __future__ import annotations

import os
from pathlib import Path


def link_file(source: Path, target: Path) -> None:
    """Link a file, replacing what is there: hard where the file system can, else symbolic.

    A hard link also survives its source: a daemon may prune a blob that an import still needs. But
    who writes into a file (and not another one under its name) writes into every link to it. So
    what was linked long ago is linked again to a source that was just read: nothing happens where
    it is the same file.
    """
    source = source.resolve()  # files of the hub's cache are links themselves
    if target.exists() and target.samefile(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # another file system, another owner, or none that has hard links
        temporary.symlink_to(source)
    temporary.replace(target)
