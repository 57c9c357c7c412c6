"""The stores in a folder: what is in them, who uses them, and how to be rid of one."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ollama_bridge.errors import ArtifactError, ConfigError
from ollama_bridge.label_store.info import INFO_NAME, StoreInfo, read_info
from ollama_bridge.label_store.segments import OPEN_NAME, open_rows, segments_of
from ollama_bridge.label_store.shared import (
    finish_removals,
    read_about,
    removed_path,
)
from ollama_bridge.storage.artifacts import MANIFEST_NAME
from ollama_bridge.storage.folder_files import statuses
from ollama_bridge.storage.locks import lock_path, locked


@dataclass(frozen=True)
class StoreSummary:
    """A store at a glance.

    Attributes:
        folder: Its own.
        info: What it holds.
        teacher_path: Where the teacher lay.
        rows: Labelled ones.
        positions: Of these.
        segments: Finished ones.
        finished: False while a run is labelling, or after one that was interrupted.
        size_bytes: Of all its files.
        used_by: Artefacts that link it.
    """

    folder: Path
    info: StoreInfo
    teacher_path: str
    rows: int
    positions: int
    segments: int
    finished: bool
    size_bytes: int
    used_by: tuple[Path, ...]

    @property
    def bytes_per_token(self) -> float:
        """Everything it takes on disk, by position."""
        return self.size_bytes / self.positions if self.positions else 0.0

    def to_dict(self) -> dict[str, object]:
        """For ``--json``."""
        return {
            **asdict(self),
            "id": self.info.store_id,
            "bytes_per_token": round(self.bytes_per_token, 1),
        }


def list_stores(stores: Path) -> list[StoreSummary]:
    """All stores in a folder, by name.

    Raises:
        ArtifactError: one of them is damaged.
    """
    return [summarize(path.parent) for path in sorted(stores.glob(f"*/{INFO_NAME}"))]


def summarize(folder: Path) -> StoreSummary:
    """Look at one store.

    Raises:
        ArtifactError: it is damaged.
    """
    segments = list(segments_of(folder))
    unfinished = open_rows(folder)
    about = read_about(folder)
    return StoreSummary(
        folder=folder,
        info=read_info(folder),
        teacher_path=about.teacher_path,
        rows=sum(len(segment) for segment in segments) + len(unfinished),
        positions=sum(segment.positions for segment in segments)
        + int(unfinished["positions"].sum(dtype=np.int64)),
        segments=len(segments),
        finished=not (folder / OPEN_NAME).exists(),
        size_bytes=sum(_sizes(folder)),
        used_by=tuple(path for path in about.used_by if _uses(path, folder)),
    )


def find_store(stores: Path, name: str) -> Path:
    """A store by its name, or the beginning of it.

    Raises:
        ConfigError: none, or more than one.
    """
    all_folders = [path.parent for path in stores.glob(f"*/{INFO_NAME}")]
    folders = [folder for folder in all_folders if name and folder.name.startswith(name)]
    if len(folders) != 1:
        found = "no soft labels" if not folders else f"{len(folders)} stores"
        raise ConfigError(f"{found} {name!r} in {stores}", hint="ollama-bridge labels ls")
    return folders[0]


def remove_store(folder: Path) -> tuple[int, int]:
    """Remove a store. Artefacts that link it keep what they link.

    Returns:
        Bytes that became free, and bytes that stay with the artefacts.

    Raises:
        ArtifactError: a run is writing it.
    """
    finish_removals(folder.parent)
    with locked(lock_path(folder), folder, hint="wait for the run that is labelling, or stop it"):
        sizes, free = _sizes(folder), _sizes(folder, links=1)
        # Gone at once and as a whole: what a kill leaves of it is no store any more.
        shutil.rmtree(folder.replace(removed_path(folder)))
    return sum(free), sum(sizes) - sum(free)


def _sizes(folder: Path, *, links: int | None = None) -> list[int]:
    """Sizes of a folder's files, in bytes; on request of those alone that have so many names."""
    return [one.st_size for one in statuses(folder) if links is None or one.st_nlink == links]


def _uses(artifact: Path, store: Path) -> bool:
    if not (artifact / MANIFEST_NAME).is_file():
        return False
    try:
        return read_info(artifact).store_id == store.name
    except ArtifactError:
        return False
