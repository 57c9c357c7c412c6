"""Gets an Ollama where there is none.

An ``ollama`` on PATH is simply used. The official release is the quickest way to one, and has GPU
support; but its digest is not known to us, so fetching it is left to the user (the command is in
every hint). Where it cannot be downloaded, package registries serve: see
:mod:`ollama_bridge.daemon.build`. A build is resumed where it was interrupted, and is kept outside
the checkout, by version (:mod:`ollama_bridge.daemon.layout`).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ollama_bridge.daemon.build import STAGE, Site, build_ollama, build_runner
from ollama_bridge.daemon.find import find_binary
from ollama_bridge.daemon.layout import (
    BINARY,
    FOLDER_VARIABLE,
    RELEASES,
    VERSION,
    Release,
    daemon_dir,
    is_complete,
    write_manifest,
)
from ollama_bridge.daemon.locks import hold_lock
from ollama_bridge.daemon.toolchain import OFFICIAL_INSTALL, find_toolchain
from ollama_bridge.errors import ArtifactError, ConfigError, DaemonInstallError, DiskFullError
from ollama_bridge.reporting import Note, NullReporter, Reporter, Timed
from ollama_bridge.storage.atomic_files import raise_if_disk_full

_WAIT_LIMIT_S = 3600.0


def install_daemon(*, version: str | None = None, reporter: Reporter | None = None) -> Path:
    """Find the binary of an ``ollama``, or build one into the cache.

    Of a version exactly that one, beside whatever is there; of None any that is found will do.

    Raises:
        ConfigError: no version that can be built here.
        DaemonInstallError: a tool is missing, a registry not reachable, or a build failed.
        DiskFullError: no room; finished parts are kept.
    """
    release = _release(version or VERSION)
    found = find_binary() if version is None else None
    if found is not None:
        return found
    version = release.version
    reporter = reporter or NullReporter()
    folder = daemon_dir() / version
    with Timed(reporter, STAGE) as timer:
        # Looked at without a lock, too: a shared folder may be another user's.
        if not is_complete(folder) and _build_alone(release, folder, reporter):
            timer.finish(folder, {"version": version})
        else:
            timer.reuse(folder)
        return folder / BINARY


def _build_alone(release: Release, folder: Path, reporter: Reporter) -> bool:
    """Build it, unless another process has while we waited for it; whether we did."""
    note = Note(STAGE, "info", "another process is installing Ollama; waiting for it")
    with hold_lock(
        folder.parent / f".{release.version}.lock",
        limit_s=_WAIT_LIMIT_S,
        doing="installing Ollama",
        on_wait=lambda: reporter.emit(note),
        moved_by=FOLDER_VARIABLE,
    ) as lock_fd:
        if is_complete(folder):
            return False
        try:
            _build(release, folder, lock_fd, reporter)
        except ArtifactError as exc:
            if isinstance(exc, DiskFullError):
                raise
            raise DaemonInstallError(exc.message, hint=exc.hint) from exc
        except OSError as exc:
            raise_if_disk_full(exc, folder)
            raise DaemonInstallError(
                f"Ollama could not be installed into {folder}: {exc}",
                hint=f"export {FOLDER_VARIABLE}=/a/folder/you/may/write",
            ) from exc
        return True


def _release(version: str) -> Release:
    release = RELEASES.get(version.removeprefix("v"))
    if release is None:
        raise ConfigError(
            f"Ollama {version} cannot be built here (known: {', '.join(RELEASES)})",
            hint=f"ollama-bridge daemon install --version {VERSION}",
        )
    return release


def _build(release: Release, folder: Path, lock_fd: int, reporter: Reporter) -> None:
    toolchain = find_toolchain()
    parent = folder.parent
    version = release.version
    site = Site(
        release=release,
        parts=parent / f".{version}.parts",
        scratch=parent / f".{version}.build",
        log_path=parent / f"install-{version}.log",
        lock_fd=lock_fd,
    )
    site.parts.mkdir(parents=True, exist_ok=True)
    site.scratch.mkdir(exist_ok=True)
    advice = f"building Ollama from source; the official release is quicker: {OFFICIAL_INSTALL}"
    reporter.emit(Note(STAGE, "info", f"{advice} (log: {site.log_path})"))
    build_ollama(site, toolchain, reporter)
    build_runner(site, toolchain, reporter)
    write_manifest(site.parts, release)
    # First: once the folder is complete, nobody looks again for what a kill left of it.
    shutil.rmtree(site.scratch)
    if folder.exists():  # damaged, or built for another processor
        shutil.rmtree(folder)
    site.parts.replace(folder)
