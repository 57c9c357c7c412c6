"""Has weights in a second folder without their bytes twice."""

from __future__ import annotations

import os
from pathlib import Path

from ollama_bridge.storage.artifacts import Artifact


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


def linked_digests(source: Artifact, folder: Path) -> dict[str, str]:
    """Digests of the files that a folder shares with an artefact under the same names.

    Gigabytes that were hashed once need not be hashed again for every link.
    """
    return {
        name: entry.digest
        for name, entry in source.manifest.files.items()
        if (folder / name).exists()
        and (folder / name).samefile(source.path / name)
        and source.is_as_written(name)
    }


def file_state(path: Path) -> tuple[int, int, int]:
    """What changes with a file's content, so that gigabytes need not be hashed twice."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
