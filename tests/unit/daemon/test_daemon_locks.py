"""One at a time, also where the holder has died and its child goes on."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
from pathlib import Path

import pytest

from ollama_bridge.daemon.locks import hold_lock
from ollama_bridge.errors import DaemonInstallError


def test_second_holder_waits_a_finite_time(tmp_path: Path) -> None:
    """While the lock is held another one hears of it once, and is refused after its limit."""
    path = tmp_path / "folder" / ".lock"
    heard = []
    with (
        hold_lock(path, limit_s=1, doing="building"),
        pytest.raises(DaemonInstallError, match="another process has been building"),
        hold_lock(path, limit_s=0.25, doing="building", on_wait=lambda: heard.append(1)),
    ):
        pass
    assert heard == [1]
    with hold_lock(path, limit_s=0, doing="building"):
        pass


def test_child_that_inherits_the_lock_keeps_it(tmp_path: Path) -> None:
    """A build that outlives its starter still holds the lock, so that no second one begins."""
    path = tmp_path / ".lock"
    with hold_lock(path, limit_s=1, doing="building") as lock_fd:
        build = subprocess.Popen(["sleep", "60"], pass_fds=(lock_fd,))
    try:
        with (
            pytest.raises(DaemonInstallError),
            hold_lock(path, limit_s=0, doing="building"),
        ):
            pass
    finally:
        build.kill()
        build.wait()
    with hold_lock(path, limit_s=1, doing="building"):
        pass


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """Where the lock file cannot be made, the error says which and how to go elsewhere."""
    (tmp_path / "file").touch()
    with (
        pytest.raises(DaemonInstallError, match="cannot write") as caught,
        hold_lock(tmp_path / "file" / ".lock", limit_s=0, doing="building"),
    ):
        pass
    assert "OLLAMA_BRIDGE_HOME" in str(caught.value.hint)


def test_a_disk_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network disk says so without the name of a file."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with (
        pytest.raises(DaemonInstallError, match="cannot be locked: No locks") as caught,
        hold_lock(tmp_path / ".lock", limit_s=0, doing="building"),
    ):
        pass
    assert "OLLAMA_BRIDGE_HOME" in str(caught.value.hint)
