"""The models in the cache: what each was made of, what it takes, and how to be rid of one."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ollama_bridge.errors import ArtifactError, ConfigError
from ollama_bridge.storage.artifacts import MANIFEST_NAME, Manifest
from ollama_bridge.storage.drafts import remove_artifact
from ollama_bridge.storage.folder_files import statuses
from ollama_bridge.storage.locks import lock_path


@dataclass(frozen=True)
class CachedModel:
    """A model of the cache at a glance.

    Attributes:
        folder: Its own.
        source: The tag, file or folder that it was made of; None: nobody can read that any more.
        inputs: Digests of what it was made of, by role.
        size_bytes: Of all its files.
        own_bytes: Of those that are in no other folder as well, and so would be free without it.
        used_at: When it was asked for last, in UTC.
    """

    folder: Path
    source: str | None
    size_bytes: int
    own_bytes: int
    used_at: str
    inputs: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """For ``--json``."""
        return {"id": self.folder.name, **asdict(self)}


def list_cached(cache_dir: Path) -> list[CachedModel]:
    """All models of a cache, by name."""
    return [summarize(folder) for folder in _folders(cache_dir)]


def summarize(folder: Path) -> CachedModel:
    """Look at one model."""
    source, inputs = None, {}
    try:
        manifest = Manifest.read(folder)
        source, inputs = str(manifest.facts.get("source", "")), dict(manifest.work.inputs)
    except ArtifactError:  # it is made again where it is asked for, and can be removed like others
        pass
    own = (one for one in statuses(folder, of_links=True) if stat.S_ISREG(one.st_mode))
    asked = lock_path(folder)  # taken by whoever asks for the model
    used_s = (asked if asked.exists() else folder).stat().st_mtime
    return CachedModel(
        folder,
        source,
        size_bytes=sum(one.st_size for one in statuses(folder)),
        own_bytes=sum(one.st_size for one in own if one.st_nlink == 1),
        used_at=datetime.fromtimestamp(used_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        inputs=inputs,
    )


def find_cached(cache_dir: Path, name: str) -> Path:
    """The folder of a model, by its name or the beginning of it.

    Raises:
        ConfigError: none, or more than one.
    """
    folders = [one for one in _folders(cache_dir) if name and one.name.startswith(name)]
    if len(folders) != 1:
        found = "no model" if not folders else f"{len(folders)} models"
        raise ConfigError(f"{found} {name!r} in {cache_dir}", hint="ollama-bridge models ls")
    return folders[0]


def remove_cached(folder: Path) -> int:
    """Remove a model; who asks for it again makes it again.

    Returns:
        Bytes that became free: weights that were linked stay where they came from.

    Raises:
        ArtifactError: another process is importing it.
    """
    freed_bytes = summarize(folder).own_bytes
    remove_artifact(folder, hint="wait until it is imported")
    return freed_bytes


def _folders(cache_dir: Path) -> list[Path]:
    found = (path.parent for path in cache_dir.glob(f"*/{MANIFEST_NAME}"))
    return sorted(folder for folder in found if not folder.name.startswith("."))
