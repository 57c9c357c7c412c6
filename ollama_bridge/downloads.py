"""Fetches single packages from PyPI, pinned by version and sha256, and unpacks them safely.

The ordinary package client (pip) does the fetching, so a user's index, proxy and certificates are
respected. Nothing is installed, and no dependency is followed.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import IO

from ollama_bridge.assets import home_dir
from ollama_bridge.digests import digest_file
from ollama_bridge.errors import ArtifactError
from ollama_bridge.storage.atomic_files import raise_if_disk_full

_PIP_REQUIREMENT = "pip>=25,<27"
_FETCH_LIMIT_S = 900.0
_UNPACKED_LIMIT_BYTES = 4 * 1024**3


@dataclass(frozen=True)
class PinnedPackage:
    """One file of one release on PyPI.

    Attributes:
        name: The project, as ``pip`` spells it.
        version: The release.
        sha256: Digests of the files that are accepted; one a platform where there are several.
        source: Take the source distribution, not a wheel.
    """

    name: str
    version: str
    sha256: tuple[str, ...]
    source: bool = False

    @property
    def requirement(self) -> str:
        """``name==version``."""
        return f"{self.name}=={self.version}"


def find_uv() -> str | None:
    """Path of ``uv``: on PATH, the one that runs us, or the one ``scripts/setup`` installed."""
    for candidate in ("uv", os.environ.get("UV"), str(home_dir() / "tools" / "bin" / "uv")):
        found = shutil.which(candidate) if candidate else None
        if found:
            return found
    return None


def pip_command() -> list[str]:
    """The command that runs pip: this environment's own, else one that uv provides.

    Raises:
        ArtifactError: neither pip nor uv is there.
    """
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    uv = find_uv()
    if uv is not None:
        return [uv, "tool", "run", "--from", _PIP_REQUIREMENT, "pip"]
    raise ArtifactError(
        f"packages cannot be fetched: {sys.executable} has no pip, and there is no uv",
        hint=f"{quote(sys.executable)} -m ensurepip",
    )


def fetch_package(package: PinnedPackage, folder: Path) -> Path:
    """Fetch a package's file into ``folder`` and check its digest.

    Args:
        package: What to fetch.
        folder: Where the file is put; made if missing.

    Returns:
        The wheel or source archive.

    Raises:
        ArtifactError: not reachable, not found, or not the file that was pinned.
        DiskFullError: no room.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as temporary:
            fetched = _run_pip(package, Path(temporary))
            target = folder / fetched.name
            fetched.replace(target)
    except OSError as exc:
        raise_if_disk_full(exc, folder)
        raise
    return target


def _run_pip(package: PinnedPackage, folder: Path) -> Path:
    requirements = folder / "requirements.txt"
    hashes = " ".join(f"--hash=sha256:{digest}" for digest in package.sha256)
    requirements.write_text(f"{package.requirement} {hashes}\n")
    # Only this package comes as source: its build requirements may well be wheels.
    form = "--no-binary" if package.source else "--only-binary"
    options = ["download", "--no-deps", form, package.name, "--progress-bar", "off"]
    options += ["--disable-pip-version-check", "--no-input", "--dest", str(folder)]
    command = [*pip_command(), *options, "--require-hashes", "--requirement", str(requirements)]
    by_hand = f"pip download --no-deps {form} {package.name} {package.requirement}"
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_FETCH_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise ArtifactError(
            f"{package.requirement} was not fetched within {_FETCH_LIMIT_S:.0f} s",
            hint=f"check the network, then: {by_hand}",
        ) from exc
    files = [file for file in folder.iterdir() if file != requirements]
    if done.returncode != 0 or len(files) != 1:
        raise ArtifactError(
            f"{package.requirement} could not be fetched: {_reason(done.stderr)}",
            hint=f"is the package index reachable? try: {by_hand}",
        )
    # pip has checked this too; trust no cache or wrapper in between.
    digest = digest_file(files[0])
    if digest not in package.sha256:
        raise ArtifactError(
            f"{files[0].name} has sha256 {digest}, expected {' or '.join(package.sha256)}",
            hint="the index or a proxy served another file; do not use it",
        )
    return files[0]


def _reason(stderr: str) -> str:
    errors = [line.strip() for line in stderr.splitlines() if re.match(r"\s*error", line, re.I)]
    lines = errors or [line.strip() for line in stderr.splitlines() if line.strip()]
    return lines[-1].removeprefix("ERROR:").strip() if lines else "pip printed nothing"


def unpack(
    archive: Path | IO[bytes],
    folder: Path,
    *,
    wanted: Callable[[PurePosixPath], bool] = lambda _: True,
    strip_first: bool = False,
) -> list[Path]:
    """Unpack regular files of a zip or tar archive; whatever would leave ``folder`` is refused.

    Args:
        archive: A ``.whl``, ``.zip``, ``.tar`` or ``.tar.*`` file, or a stream of a tar archive.
        folder: Where to.
        wanted: Says which members to unpack, by their name inside the archive.
        strip_first: Drop the first part of every name (the ``name-version/`` of a source archive).

    Returns:
        The files written.

    Raises:
        ArtifactError: damaged, or a hostile member (absolute, ``..``, link, device, huge).
    """
    try:
        if isinstance(archive, Path) and zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                return _Unpacker(folder, wanted, strip_first=strip_first).zip(zipped)
        if isinstance(archive, Path):
            with tarfile.open(archive) as tar:
                return _Unpacker(folder, wanted, strip_first=strip_first).tar(tar)
        with tarfile.open(fileobj=archive) as tar:
            return _Unpacker(folder, wanted, strip_first=strip_first).tar(tar)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as exc:
        raise ArtifactError(
            f"{archive if isinstance(archive, Path) else 'the inner archive'} is damaged: {exc}",
            hint="remove it and fetch it again",
        ) from exc
    except OSError as exc:
        raise_if_disk_full(exc, folder)
        raise


class _Unpacker:
    """Writes members one by one, under the checks of :func:`unpack`."""

    def __init__(
        self, folder: Path, wanted: Callable[[PurePosixPath], bool], *, strip_first: bool
    ) -> None:
        self._folder = folder
        self._wanted = wanted
        self._strip_first = strip_first
        self._left_bytes = _UNPACKED_LIMIT_BYTES
        self._written: list[Path] = []

    def zip(self, archive: zipfile.ZipFile) -> list[Path]:
        for info in archive.infolist():
            mode = info.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ArtifactError(f"archive member {info.filename!r} is not a regular file")
            name = _safe_name(info.filename)
            if not info.is_dir() and self._wanted(name):
                with archive.open(info) as source:
                    self._write(name, source, executable=bool(mode & stat.S_IXUSR))
        return self._written

    def tar(self, archive: tarfile.TarFile) -> list[Path]:
        for info in archive:
            name = _safe_name(info.name)
            if info.isdir() or not self._wanted(name):
                continue
            source = archive.extractfile(info) if info.isreg() else None
            if source is None:
                raise ArtifactError(f"archive member {info.name!r} is not a regular file")
            with source:
                self._write(name, source, executable=bool(info.mode & stat.S_IXUSR))
        return self._written

    def _write(self, name: PurePosixPath, source: IO[bytes], *, executable: bool) -> None:
        if self._strip_first:
            name = PurePosixPath(*name.parts[1:])
        if not name.parts:
            return
        target = self._folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as stream:
            # Counted as written: the sizes that an archive declares can lie.
            while chunk := source.read(1024 * 1024):
                self._left_bytes -= len(chunk)
                if self._left_bytes < 0:
                    raise ArtifactError(
                        f"the archive unpacks to more than {_UNPACKED_LIMIT_BYTES} bytes"
                    )
                stream.write(chunk)
        if executable:
            target.chmod(0o755)
        self._written.append(target)


def _safe_name(text: str) -> PurePosixPath:
    name = PurePosixPath(text)
    if name.is_absolute() or ".." in name.parts or "\\" in text or "\0" in text:
        raise ArtifactError(f"archive member {text!r} would be written outside its folder")
    return name
