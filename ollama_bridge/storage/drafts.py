"""Drafts: how an artefact is written, so that it is complete or absent.

A stage works inside :func:`open_draft` and ends with :meth:`Draft.commit`; see ``artifacts`` for
what that promises.

A stop (a kill, a full disk, a power cut) may hit between any two calls to the file system. The
manifest in the draft decides: before it is there, the draft is resumed with its working state;
once it is, the draft is the artefact, and whoever opens it next moves it into place. An artefact
that is replaced steps aside as ``.NAME.replaced``, and back if the new one did not come.

Hours of training may be in a draft. So where other work is begun in its place, it steps aside under
its key, is found again by its own work, and goes when an artefact is finished there.
"""

from __future__ import annotations

import contextlib
import glob
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from shlex import quote

from ollama_bridge.digests import JSONValue, digest_file
from ollama_bridge.errors import ArtifactError
from ollama_bridge.reporting import Note, NullReporter, Reporter
from ollama_bridge.storage.artifacts import MANIFEST_NAME, FileEntry, Manifest, Work
from ollama_bridge.storage.atomic_files import raise_if_disk_full, sync_to_disk, write_text_atomic
from ollama_bridge.storage.locks import lock_path, locked

# Their versions can change a number, so they are written into every manifest.
_RECORDED_PACKAGES = ("ollama-bridge", "torch", "transformers", "peft", "gguf", "tokenizers")

_KEY_NAME = ".key"  # in a draft: of its work; what has none is nobody's to go on with
_KEY_CHARS = 12  # of the name of a draft that stepped aside
_WORTH_TELLING_BYTES = 1_000_000


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

        Files and folders at the top whose names start with ``.`` or with ``resume`` are working
        state: they are not recorded, and removed once nothing needs them any more.

        Args:
            digests: Of files that were hashed when they were written or found: ``sha256:<hex>`` or
                ``blake3:<hex>``.
        """
        manifest = Manifest(
            work=self.work,
            files=self._synced_files(digests or {}),
            facts=dict(facts or {}),
            versions=_versions(),
            created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )
        write_text_atomic(self.path / MANIFEST_NAME, manifest.to_json())
        sync_to_disk(self.path)
        _move_into_place(self.path, self.out_dir)
        self.finished = manifest
        return manifest

    def restart(self) -> None:
        """Do finished work once more; what is there stays until :meth:`commit` replaces it."""
        self.finished = None
        _prepare_draft(self.path, self.work, NullReporter())

    def _synced_files(self, digests: Mapping[str, str]) -> dict[str, FileEntry]:
        files = {}
        for path in sorted(self.path.rglob("*")):
            name = path.relative_to(self.path)
            if _is_working_state(name.parts[0]):
                continue
            sync_to_disk(path)
            if path.is_file():
                digest = digests.get(name.as_posix()) or f"sha256:{digest_file(path)}"
                files[name.as_posix()] = FileEntry(path.stat().st_size, digest)
        return files


def draft_path(out_dir: Path) -> Path:
    """Where an artefact is written until it is complete."""
    out_dir = _behind_link(out_dir)
    return out_dir.with_name(f".{out_dir.name}.draft")


def remove_artifact(out_dir: Path, *, hint: str) -> None:
    """Remove an artefact.

    Args:
        hint: What to do where it is refused.

    Raises:
        ArtifactError: another process is writing it.
    """
    with locked(lock_path(out_dir), out_dir, hint=hint):
        shutil.rmtree(out_dir)


def holds_draft(folder: Path) -> bool:
    """Whether something in a folder, or below, was begun and is not finished."""
    return any(
        name.startswith(".") and name.endswith(".draft")
        for _, names, _ in os.walk(folder)
        for name in names
    )


def _behind_link(out_dir: Path) -> Path:
    """The folder itself: a link may lead to another disk, for whose room it was made."""
    return Path(os.path.realpath(out_dir)) if out_dir.is_symlink() else out_dir.absolute()


@contextlib.contextmanager
def open_draft(
    out_dir: Path,
    work: Work,
    *,
    on_wait: Callable[[], None] | None = None,
    reporter: Reporter | None = None,
    in_place: bool = False,
) -> Iterator[Draft]:
    """Begin, resume or find finished the artefact that ``work`` describes.

    Inside the block, ``draft.finished`` is the manifest if the same work is already done; else
    write into ``draft.path`` (which holds what an interrupted run of the same work left) and
    call ``draft.commit()``. Another process that asks for the same folder is refused meanwhile.

    Args:
        out_dir: Where the artefact lies in the end; where it is a link, what that leads to is it.
        on_wait: Of a folder that several runs share: another process that writes it is waited
            for, after this was called once.
        reporter: Hears where a draft of other work is kept.
        in_place: What is made may replace what it is made of: it is all in it.

    Raises:
        ArtifactError: another process is writing this artefact, ``out_dir`` holds something that
            is not ours, of another kind, or read for this work; or nothing can be renamed to it.
        DiskFullError: no room; what can be resumed is kept.
    """
    _check_place(out_dir, work)
    out_dir = _behind_link(out_dir)
    draft_dir = draft_path(out_dir)
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        hint = "wait for it, or choose another --out"
        with locked(lock_path(out_dir), out_dir, hint=hint, on_wait=on_wait):
            _settle_replacement(out_dir)
            finished = _finished(out_dir, work, in_place=in_place)
            finished = finished or _completed(draft_dir, out_dir, work)
            if finished is None:
                _prepare_draft(draft_dir, work, reporter or NullReporter())
            try:
                yield Draft(out_dir, draft_dir, work, finished)
            except BaseException:
                _discard_if_empty(draft_dir)
                raise
    except OSError as exc:
        raise_if_disk_full(exc, out_dir)
        raise


def _check_place(named: Path, work: Work) -> None:
    """Tell before the work what could not be done behind it: a draft is renamed into its place."""
    out_dir = _behind_link(named)
    if os.path.ismount(out_dir):
        manifest = _read_manifest(out_dir)
        if manifest is not None and manifest.work.key == work.key:
            return
        reason = "is a mount point, which cannot be renamed"
    elif named.is_symlink() and out_dir.is_dir() and not os.access(out_dir.parent, os.W_OK):
        reason = "is in a folder that you may not write to, so nothing can be written beside it"
    else:
        return
    if named.is_symlink():
        inner, link = quote(str(out_dir / named.name)), quote(str(named))
        raise ArtifactError(
            f"{named} leads to {out_dir}, which {reason}",
            hint=f"link to a folder inside it: mkdir -p {inner}; ln -sfn {inner} {link}",
        )
    raise ArtifactError(
        f"{out_dir} {reason}", hint=f"use a folder inside it: --out {quote(str(out_dir / 'NAME'))}"
    )


def _finished(out_dir: Path, work: Work, *, in_place: bool) -> Manifest | None:
    if not out_dir.exists():
        return None
    if not (out_dir / MANIFEST_NAME).exists():
        if any(out_dir.iterdir()):
            raise ArtifactError(
                f"{out_dir} exists and is not an artefact of ollama-bridge",
                hint="choose another --out, or move that folder away",
            )
        return None
    manifest = _read_manifest(out_dir)  # damaged: build it again, the draft replaces it
    if manifest is None or manifest.work.key == work.key:
        return manifest
    is_read = manifest.digest in work.inputs.values() and not in_place
    if is_read or manifest.work.kind != work.kind:
        raise ArtifactError(
            f"{out_dir} is the result of {manifest.work.stage}"
            f"{', which is read here' if is_read else ''}: {work.stage} would replace it",
            hint="choose another --out, or remove that folder if it is not needed",
        )
    return None


def _completed(draft_dir: Path, out_dir: Path, work: Work) -> Manifest | None:
    """Finish a commit that was stopped behind its manifest."""
    manifest = _read_manifest(draft_dir)
    if manifest is None or manifest.work.key != work.key:
        return None
    _move_into_place(draft_dir, out_dir)
    return manifest


def _prepare_draft(draft_dir: Path, work: Work, reporter: Reporter) -> None:
    if _key_in(draft_dir) != work.key:
        _set_aside(draft_dir, work, reporter)
        earlier = _aside_path(draft_dir, work.key)
        if _key_in(earlier) == work.key:
            earlier.replace(draft_dir)
    if _key_in(draft_dir) == work.key:
        (draft_dir / MANIFEST_NAME).unlink(missing_ok=True)
        return
    draft_dir.mkdir()
    write_text_atomic(draft_dir / _KEY_NAME, work.key)


def _set_aside(draft_dir: Path, work: Work, reporter: Reporter) -> None:
    """Keep the draft of other work where it can be gone on with; remove it where it cannot."""
    key = _key_in(draft_dir)
    if key is None or not any(draft_dir.glob("resume*")):
        _discard(draft_dir)
        return
    kept = _aside_path(draft_dir, key)
    _discard(kept)
    draft_dir.replace(kept)
    size_bytes = sum(path.stat().st_size for path in kept.rglob("*") if path.is_file())
    if size_bytes >= _WORTH_TELLING_BYTES:
        message = (
            f"unfinished work with other settings or inputs is kept ({size_bytes / 1e6:.0f} MB): "
            "with those it resumes where it stopped; it is removed when this work is finished, "
            f"or now by: rm -r {quote(str(kept))}"
        )
        reporter.emit(Note(work.stage, "info", message))


def _aside_path(draft_dir: Path, key: str) -> Path:
    return draft_dir.with_name(f"{draft_dir.name}-{key[:_KEY_CHARS]}")


def _key_in(draft_dir: Path) -> str | None:
    try:
        return (draft_dir / _KEY_NAME).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None


def _discard(draft_dir: Path) -> None:
    (draft_dir / _KEY_NAME).unlink(missing_ok=True)  # first: nobody resumes what is half removed
    _remove(draft_dir)


def _discard_if_empty(draft_dir: Path) -> None:
    """Leave nothing behind work that failed before it wrote anything."""
    if [path.name for path in draft_dir.glob("*")] == [_KEY_NAME]:
        _discard(draft_dir)


def _move_into_place(draft_dir: Path, out_dir: Path) -> None:
    """Make a draft with its manifest the artefact; repeated from wherever it was stopped."""
    for child in draft_dir.iterdir():
        if _is_working_state(child.name):
            _remove(child)
    for kept in draft_dir.parent.glob(glob.escape(f"{draft_dir.name}-") + "[0-9a-f]" * _KEY_CHARS):
        _discard(kept)
    replaced = _replaced_dir(out_dir)
    if out_dir.exists():
        out_dir.replace(replaced)
    draft_dir.replace(out_dir)
    sync_to_disk(out_dir.parent)
    _remove(replaced)


def _settle_replacement(out_dir: Path) -> None:
    """Undo a replacement that was stopped half way; remove what a whole one left behind."""
    replaced = _replaced_dir(out_dir)
    if not out_dir.exists() and _read_manifest(replaced) is not None:
        replaced.replace(out_dir)
    else:
        _remove(replaced)


def _replaced_dir(out_dir: Path) -> Path:
    return out_dir.with_name(f".{out_dir.name}.replaced")


def _is_working_state(name: str) -> bool:
    return name.startswith((".", "resume"))


def _read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a complete folder; None: it is missing, or damaged."""
    try:
        return Manifest.read(folder)
    except ArtifactError:
        return None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _RECORDED_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
