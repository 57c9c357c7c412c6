"""A store that several runs share: who writes, what is missing, who uses it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote

from ollama_bridge.errors import ArtifactError
from ollama_bridge.label_store.info import INFO_NAME, StoreInfo
from ollama_bridge.label_store.segments import (
    LABELS_NAME,
    ROWS_NAME,
    Row,
    SegmentWriter,
    keys_of,
    open_rows,
    segments_of,
)
from ollama_bridge.storage.atomic_files import raise_if_disk_full, write_text_atomic
from ollama_bridge.storage.locks import lock_path, locked

ABOUT_NAME = "about.json"
_BUSY_HINT = "wait for it: what it labels need not be labelled again"


@dataclass(frozen=True)
class About:
    """What people want to know of a store, and no label depends on.

    Attributes:
        teacher_path: Where the teacher lay.
        used_by: Artefacts that link it, or did.
    """

    teacher_path: str
    used_by: tuple[Path, ...] = ()

    def write(self, store: Path) -> None:
        """Write ``about.json``."""
        value = {"teacher_path": self.teacher_path, "used_by": [str(path) for path in self.used_by]}
        write_text_atomic(store / ABOUT_NAME, json.dumps(value, indent=2) + "\n")


class SharedStore:
    """A store that is held for writing; see :func:`open_store`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer = SegmentWriter(folder)
        self._keys = set(keys_of(open_rows(folder)))
        for segment in segments_of(folder):
            self._keys.update(segment.keys())

    def __contains__(self, key: bytes) -> bool:
        """Whether a row has labels."""
        return key in self._keys

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows; they are on disk when this returns, or not in the store.

        Raises:
            DiskFullError: no room.
        """
        self._writer.append(rows)
        self._keys.update(row.key for row in rows)

    def link_into(self, folder: Path, keys: Iterable[bytes], *, user: Path) -> float:
        """Finish what was appended, and link what some rows need into an artefact.

        Args:
            folder: Where the artefact is being written.
            keys: All of them in the store.
            user: Where the artefact will be.

        Returns:
            Bytes a position of what was linked, entries of rows included.
        """
        self._writer.seal()
        wanted = set(keys)
        size_bytes = positions = 0
        _link(self.folder / INFO_NAME, folder / INFO_NAME)
        for segment in segments_of(self.folder):
            if wanted.isdisjoint(segment.keys()):
                continue
            for name in (LABELS_NAME, ROWS_NAME):
                _link(segment.folder / name, folder / segment.folder.name / name)
            size_bytes += segment.size_bytes
            positions += segment.positions
        about = read_about(self.folder)
        replace(about, used_by=tuple(sorted({*about.used_by, user}))).write(self.folder)
        return round(size_bytes / max(1, positions), 1)

    def digests(self) -> dict[str, str]:
        """Of what :meth:`link_into` links, where it is known, by names in an artefact."""
        return {
            f"{segment.folder.name}/{name}": f"sha256:{sha256}"
            for segment in segments_of(self.folder)
            for name, sha256 in segment.digests().items()
        }


@contextlib.contextmanager
def open_store(stores: Path, info: StoreInfo, *, teacher_path: Path) -> Iterator[SharedStore]:
    """Find or make the store of some labels, and hold it for writing.

    Raises:
        ArtifactError: another process is writing it, or it is damaged.
        DiskFullError: no room.
    """
    folder = stores / info.store_id
    stores.mkdir(parents=True, exist_ok=True)
    finish_removals(stores)
    with locked(lock_path(folder), folder, hint=_BUSY_HINT):
        if not (folder / INFO_NAME).exists():
            folder.mkdir(exist_ok=True)
            About(str(teacher_path)).write(folder)
            write_text_atomic(folder / INFO_NAME, info.to_json())
        yield SharedStore(folder)


def removed_path(store: Path) -> Path:
    """What a store is called while it is removed."""
    return store.with_name(f".{store.name}.removed")


def finish_removals(stores: Path) -> None:
    """Remove what a kill left of stores that were being removed: it is no store, and not listed."""
    for removed in stores.glob(removed_path(Path("*")).name):
        store = removed.with_name(removed.name[1:].removesuffix(".removed"))
        # One that is being removed right now is another process' business.
        with contextlib.suppress(ArtifactError), locked(lock_path(store), store, hint=_BUSY_HINT):
            shutil.rmtree(removed)


def read_about(store: Path) -> About:
    """Read ``about.json``.

    Raises:
        ArtifactError: missing or damaged.
    """
    path = store / ABOUT_NAME
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return About(str(value["teacher_path"]), tuple(Path(one) for one in value["used_by"]))
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ArtifactError(
            f"{path} cannot be read: {exc!r}", hint=f"ollama-bridge labels rm {quote(store.name)}"
        ) from exc


def _link(source: Path, target: Path) -> None:
    """Link a file, or copy it to where links do not reach: an artefact must not miss it later."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        try:
            shutil.copyfile(source, target)
        except OSError as exc:
            raise_if_disk_full(exc, target)
            raise
