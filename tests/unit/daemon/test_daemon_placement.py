"""Placing a file in a daemon's store: only the right file, only in the right folder of ours."""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ollama_bridge.client import ModelSummary
from ollama_bridge.daemon import placement
from ollama_bridge.daemon.placement import FileState, PlacedBlob, place_blob
from ollama_bridge.errors import DiskFullError

CONTENT = b"GGUF and so on"
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
NAME = DIGEST.replace(":", "-")
A_YEAR_AGO_NS = 1_700_000_000 * 10**9


@dataclass
class Daemon:
    """Sees one folder of blobs, as far as placing asks."""

    blobs: Path
    host: str = "http://127.0.0.1:11434"
    asked: list[str] = field(default_factory=list)

    def list(self) -> list[ModelSummary]:
        """Nothing yet."""
        return []

    def has_blob(self, digest: str) -> bool:
        """Whether the folder has it, links followed as a daemon does."""
        self.asked.append(digest)
        return (self.blobs / digest.replace(":", "-")).exists()


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """A daemon whose store OLLAMA_MODELS names."""
    (tmp_path / "models" / "blobs").mkdir(parents=True)
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return Daemon(tmp_path / "models" / "blobs")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file that was written a year ago."""
    path = tmp_path / "model.gguf"
    path.write_bytes(CONTENT)
    os.utime(path, ns=(A_YEAR_AGO_NS, A_YEAR_AGO_NS))
    return path


def place(daemon: Daemon, source: Path, state: FileState | None = None) -> PlacedBlob | None:
    """Place the file, found as it is."""
    return place_blob(daemon, source, DIGEST, state=state or FileState.of(source))  # type: ignore[arg-type]


def test_a_file_is_linked_and_keeps_its_time(daemon: Daemon, source: Path) -> None:
    """The same bytes, young enough for a restart, and the source's time comes back."""
    placed = place(daemon, source)
    assert placed is not None
    assert placed.how == "linked"
    assert [path.name for path in daemon.blobs.iterdir()] == [NAME]
    assert placed.path.samefile(source)
    assert source.stat().st_mtime_ns > A_YEAR_AGO_NS
    placed.restore_time()
    assert source.stat().st_mtime_ns == A_YEAR_AGO_NS


def test_a_symbolic_link_is_followed_to_the_file(
    daemon: Daemon, source: Path, tmp_path: Path
) -> None:
    """The store gets the file itself, not a link that leads out of it."""
    link = tmp_path / "link.gguf"
    link.symlink_to(source)
    placed = place(daemon, link)
    assert placed is not None
    assert not placed.path.is_symlink()
    assert placed.path.samefile(source)


def test_where_links_are_not_possible_the_file_is_copied(
    daemon: Daemon, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another file system: a copy, with nothing beside it, and the source untouched."""
    monkeypatch.setattr(Path, "hardlink_to", refuse(errno.EXDEV))
    placed = place(daemon, source)
    assert placed is not None
    assert placed.how == "copied"
    assert placed.path.read_bytes() == CONTENT
    assert [path.name for path in daemon.blobs.iterdir()] == [NAME]
    assert source.stat().st_mtime_ns == A_YEAR_AGO_NS


@pytest.mark.parametrize("at", ["hardlink_to", "copyfileobj"])
def test_a_full_disk_leaves_nothing(
    daemon: Daemon, source: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Linking or copying: one clear error, and no part of the file in the store."""
    if at == "copyfileobj":
        monkeypatch.setattr(Path, "hardlink_to", refuse(errno.EXDEV))
        monkeypatch.setattr(placement.shutil, at, refuse(errno.ENOSPC))
    else:
        monkeypatch.setattr(Path, at, refuse(errno.ENOSPC))
    with pytest.raises(DiskFullError) as caught:
        place(daemon, source)
    assert "OLLAMA_MODELS" in (caught.value.hint or "")
    assert "--out" not in (caught.value.hint or "")
    assert list(daemon.blobs.iterdir()) == []


@pytest.mark.parametrize(
    "reason", ["another machine", "another store", "another owner", "everybody's", "no folder"]
)
def test_a_store_that_is_not_ours_gets_nothing(
    daemon: Daemon, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    """Then the file has to be uploaded; the folder is as it was."""
    folder = daemon.blobs
    if reason == "another machine":
        daemon.host = "http://192.0.2.1:11434"
    elif reason == "another store":
        daemon.blobs = tmp_path / "elsewhere"
    elif reason == "another owner":
        monkeypatch.setattr(placement.os, "geteuid", lambda: 12345)
    elif reason == "everybody's":
        folder.chmod(0o777)
    else:
        folder.rmdir()
    assert place(daemon, source) is None
    assert not folder.exists() or list(folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_where_a_daemon_of_another_user_writes_it_gets_nothing_of_ours(
    daemon: Daemon, source: Path
) -> None:
    """It could neither set the file's times nor, perhaps, read it."""
    theirs = daemon.blobs / f"sha256-{'0' * 64}"
    theirs.touch()
    assert place(daemon, source) is not None
    (daemon.blobs / NAME).unlink()
    os.chown(theirs, 12345, 12345)
    assert place(daemon, source) is None
    assert list(daemon.blobs.iterdir()) == [theirs]


def test_nothing_is_written_through_a_symbolic_link(
    daemon: Daemon, source: Path, tmp_path: Path
) -> None:
    """A link that lies in the blob's place is left alone, and what it names is not made."""
    (daemon.blobs / NAME).symlink_to(tmp_path / "victim")
    assert place(daemon, source) is None
    assert not (tmp_path / "victim").exists()
    assert (daemon.blobs / NAME).is_symlink()


def test_a_changed_file_is_not_placed(daemon: Daemon, source: Path) -> None:
    """A daemon never checks a placed file: what was hashed must still be what is there."""
    state = FileState.of(source)
    source.write_bytes(b"GGUF and so NO")
    assert place(daemon, source, state) is None
    assert list(daemon.blobs.iterdir()) == []


def refuse(number: int):  # type: ignore[no-untyped-def]
    """A call that fails with one error of the system."""

    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call
