"""Drafts: how an artefact is written, so that it is complete or absent.

A stage works inside :func:`open_draft` and ends with :meth:`Draft.commit`; see ``artifacts`` for
what that promises.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from ollama_bridge.artifacts import (
    MANIFEST_NAME,
    FileEntry,
    JSONValue,
    Manifest,
    Work,
    digest_file,
    raise_if_disk_full,
    write_text_atomic,
)
from ollama_bridge.errors import ArtifactError

# Their versions can change a number, so they are written into every manifest.
_RECORDED_PACKAGES = ("ollama-bridge", "torch", "transformers", "peft", "gguf", "tokenizers")


class Draft:
    """A folder under construction; see :func:`open_draft`."""

    def __init__(self, out_dir: Path, path: Path, work: Work, finished: Manifest | None) -> None:
        self.out_dir = out_dir
        self.path = path
        self.work = work
        self.finished = finished

    def commit(
        self,
        facts: Mapping[str, JSONValue] | None = None,
        *,
        digests: Mapping[str, str] | None = None,
    ) -> Manifest:
        """Hash and sync every file, write the manifest, and move the folder into place.

        Files and folders whose names start with ``.`` or with ``resume`` are working state:
        they are removed, not recorded.

        Args:
            facts: For the manifest.
            digests: sha256 of files that were hashed when they were written.
        """
        digests = digests or {}
        for child in self.path.iterdir():
            if child.name.startswith((".", "resume")):
                shutil.rmtree(child) if child.is_dir() else child.unlink()
        files = {}
        for file in sorted(path for path in self.path.rglob("*") if path.is_file()):
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
            name = file.relative_to(self.path).as_posix()
            files[name] = FileEntry(file.stat().st_size, digests.get(name) or digest_file(file))
        manifest = Manifest(
            work=self.work,
            files=files,
            facts=dict(facts or {}),
            versions=_versions(),
            created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )
        write_text_atomic(self.path / MANIFEST_NAME, manifest.to_json())
        if self.out_dir.exists():
            shutil.rmtree(self.out_dir)
        self.path.replace(self.out_dir)
        _sync_folder(self.out_dir.parent)
        self.finished = manifest
        return manifest


@contextlib.contextmanager
def open_draft(out_dir: Path, work: Work) -> Iterator[Draft]:
    """Begin, resume or find finished the artefact that ``work`` describes.

    Inside the block, ``draft.finished`` is the manifest if the same work is already done; else
    write into ``draft.path`` (which holds what an interrupted run of the same work left) and
    call ``draft.commit()``. Another process that asks for the same folder is refused meanwhile.

    Raises:
        ArtifactError: another process is writing this artefact, or ``out_dir`` holds something
            that is not ours.
        DiskFullError: no room; what can be resumed is kept.
    """
    out_dir = out_dir.absolute()
    draft_dir = out_dir.with_name(f".{out_dir.name}.draft")
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        lock_path = out_dir.with_name(f".{out_dir.name}.lock")
        with locked(lock_path, out_dir, hint="wait for it, or choose another --out"):
            finished = _finished(out_dir, work)
            if finished is None:
                _prepare_draft(draft_dir, work)
            yield Draft(out_dir, draft_dir, work, finished)
    except OSError as exc:
        raise_if_disk_full(exc, out_dir)
        raise


def _finished(out_dir: Path, work: Work) -> Manifest | None:
    if not out_dir.exists():
        return None
    if not (out_dir / MANIFEST_NAME).exists():
        if any(out_dir.iterdir()):
            raise ArtifactError(
                f"{out_dir} exists and is not an artefact of ollama-bridge",
                hint="choose another --out, or move that folder away",
            )
        return None
    try:
        manifest = Manifest.read(out_dir)
    except ArtifactError:
        return None  # damaged: build it again, the draft replaces it
    return manifest if manifest.work.key == work.key else None


def _prepare_draft(draft_dir: Path, work: Work) -> None:
    marker = draft_dir / ".key"
    if draft_dir.exists() and (not marker.exists() or marker.read_text() != work.key):
        shutil.rmtree(draft_dir)
    draft_dir.mkdir(exist_ok=True)
    marker.write_text(work.key)


@contextlib.contextmanager
def locked(lock_path: Path, folder: Path, *, hint: str) -> Iterator[None]:
    """Hold the lock of a folder while the block runs; the system frees it when its holder dies.

    Raises:
        ArtifactError: another process holds it.
    """
    with lock_path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise ArtifactError(f"another process is writing {folder}", hint=hint) from exc
        yield


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _RECORDED_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
