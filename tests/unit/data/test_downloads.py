"""Fetching and unpacking: pinned, and nothing outside the folder."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from ollama_bridge import downloads
from ollama_bridge.downloads import PinnedPackage, fetch_package, unpack
from ollama_bridge.errors import ArtifactError


def tar_of(path: Path, *members: tarfile.TarInfo) -> Path:
    """A tar archive of members whose content is ``data``."""
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            member.size = 4 if member.isreg() else 0
            tar.addfile(member, io.BytesIO(b"data"))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    """One member of a tar archive."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def test_wanted_members_are_unpacked_without_their_wrapper(tmp_path: Path) -> None:
    """Only what is wanted is written, and the wrapping folder is dropped on request."""
    archive = tar_of(
        tmp_path / "a.tar.gz",
        member("x-1", tarfile.DIRTYPE),
        member("x-1/keep/a.txt"),
        member("x-1/drop/b.txt"),
    )
    out = tmp_path / "out"
    written = unpack(archive, out, wanted=lambda name: "keep" in name.parts, strip_first=True)
    assert written == [out / "keep" / "a.txt"]
    assert written[0].read_bytes() == b"data"


def test_executables_stay_executable(tmp_path: Path) -> None:
    """The execution permission of a member survives."""
    info = member("bin/go")
    info.mode = 0o755
    (written,) = unpack(tar_of(tmp_path / "a.tgz", info), tmp_path / "out")
    assert written.stat().st_mode & 0o100


@pytest.mark.parametrize(
    "bad",
    [
        member("../evil"),
        member("/evil"),
        member("a/../../evil"),
        member("a\\..\\evil"),
        member("link", tarfile.SYMTYPE, "/etc/passwd"),
        member("hard", tarfile.LNKTYPE, "../../evil"),
        member("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda info: info.name,
)
def test_hostile_tar_members_are_refused(tmp_path: Path, bad: tarfile.TarInfo) -> None:
    """Whatever would leave the folder, link or be no file stops the unpacking."""
    out = tmp_path / "deep" / "out"
    with pytest.raises(ArtifactError, match="archive member"):
        unpack(tar_of(tmp_path / "a.tar.gz", bad), out)
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil"])
def test_hostile_zip_members_are_refused(tmp_path: Path, name: str) -> None:
    """The same for wheels."""
    archive = tmp_path / "a.whl"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr(name, "data")
    with pytest.raises(ArtifactError, match="outside its folder"):
        unpack(archive, tmp_path / "deep" / "out")


def test_links_in_a_wheel_are_refused(tmp_path: Path) -> None:
    """A zip member that is a symbolic link by its mode is no regular file."""
    archive = tmp_path / "a.whl"
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr(info, "/etc/passwd")
    with pytest.raises(ArtifactError, match="not a regular file"):
        unpack(archive, tmp_path / "out")


def test_bombs_are_stopped_while_they_unpack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive that unpacks to more than the limit is given up."""
    monkeypatch.setattr(downloads, "_UNPACKED_LIMIT_BYTES", 1000)
    archive = tmp_path / "a.whl"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("zeros", bytes(100_000))
    with pytest.raises(ArtifactError, match="more than 1000 bytes"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 torn"])
def test_damaged_archives_are_named(tmp_path: Path, content: bytes) -> None:
    """What is no archive is an error with the file's name."""
    archive = tmp_path / "torn.tar.gz"
    archive.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"torn\.tar\.gz is damaged"):
        unpack(archive, tmp_path / "out")


def fake_pip(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program in the place of pip; ``dest`` is where it is asked to put the file."""
    program = folder / "pip.py"
    program.write_text(
        "import pathlib, sys\n"
        "dest = pathlib.Path(sys.argv[sys.argv.index('--dest') + 1])\n"
        f"{body}\n"
    )
    monkeypatch.setattr(downloads, "pip_command", lambda: [sys.executable, str(program)])


def test_fetched_file_is_checked_against_the_pin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file with another digest is refused even if pip let it through."""
    fake_pip(tmp_path, "(dest / 'x-1.whl').write_bytes(b'data')", monkeypatch)
    right = PinnedPackage("x", "1", (hashlib.sha256(b"data").hexdigest(),))
    assert fetch_package(right, tmp_path / "out").read_bytes() == b"data"
    wrong = PinnedPackage("x", "1", ("00" * 32,))
    with pytest.raises(ArtifactError, match="expected"):
        fetch_package(wrong, tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


def test_offline_names_the_package_and_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason that pip gives is passed on, with the command to try by hand."""
    fake_pip(
        tmp_path, "sys.exit('WARNING: retrying\\nERROR: No matching distribution')", monkeypatch
    )
    with pytest.raises(ArtifactError, match="x==1 could not be fetched: No matching") as caught:
        fetch_package(PinnedPackage("x", "1", ("00" * 32,), source=True), tmp_path / "out")
    assert "pip download --no-deps --no-binary x x==1" in str(caught.value.hint)


def test_fetch_that_hangs_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait for pip is finite."""

    def hang(*args: object, **kwargs: object) -> None:
        raise subprocess.TimeoutExpired("pip", 900)

    monkeypatch.setattr(downloads.subprocess, "run", hang)
    with pytest.raises(ArtifactError, match="was not fetched within"):
        fetch_package(PinnedPackage("x", "1", ("00" * 32,)), tmp_path / "out")


def test_without_pip_uv_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment made by uv has no pip; then uv provides one, and else the error says so."""
    monkeypatch.setattr(downloads.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(downloads, "find_uv", lambda: "/bin/uv")
    assert downloads.pip_command()[:3] == ["/bin/uv", "tool", "run"]
    monkeypatch.setattr(downloads, "find_uv", lambda: None)
    with pytest.raises(ArtifactError, match="no pip, and there is no uv"):
        downloads.pip_command()
