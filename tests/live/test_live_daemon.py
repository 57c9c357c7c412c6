"""Our handling of a real daemon: start, stop, crash, races, and its model store."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from fakes.private_daemon import PrivateDaemon, free_port
from fakes.processes import has_ended

from ollama_bridge.daemon import ensure
from ollama_bridge.daemon.store import locate_blob
from ollama_bridge.digests import digest_file
from ollama_bridge.errors import DaemonInstallError, ModelNotFoundError

pytestmark = pytest.mark.live

_STARTER = "from ollama_bridge.daemon.ensure import ensure_daemon; print(ensure_daemon().host)"


def register(daemon: PrivateDaemon, gguf: Path, tag: str) -> str:
    """Create a tag from a GGUF file; returns the file's digest."""
    digest = f"sha256:{digest_file(gguf)}"
    with daemon.client() as client:
        if not client.has_blob(digest):
            client.upload_blob(gguf, digest)
        client.create({"model": tag, "files": {"model.gguf": digest}})
    return digest


def ask(daemon: PrivateDaemon, tag: str) -> None:
    """Make the daemon load a model and answer with a few tokens."""
    with daemon.client() as client:
        client.generate(tag, "Hello", options={"num_predict": 2, "num_thread": 1, "num_ctx": 512})


def gone(processes: list[psutil.Process]) -> bool:
    """Whether all of them have ended."""
    return all(map(has_ended, processes))


def test_blob_of_a_created_model_is_the_file(
    daemon: PrivateDaemon, teacher_gguf: Path, *, keeps_files: bool
) -> None:
    """A tag leads back to the bytes that it was created from."""
    digest = register(daemon, teacher_gguf, "blob-test:1")
    with daemon.client() as client:
        blob = locate_blob(client, "blob-test:1")
        with pytest.raises(ModelNotFoundError):
            locate_blob(client, "no-such-model:1")
        assert (blob.digest == digest) == keeps_files
        assert blob.path is not None
        assert f"sha256:{digest_file(blob.path)}" == blob.digest
        assert blob.size_bytes == blob.path.stat().st_size
        client.delete("blob-test:1")


def test_no_runner_survives_a_crash_or_a_stop(
    ollama_binary: Path, teacher_gguf: Path, tmp_path: Path
) -> None:
    """A killed daemon's runner is ended at the restart, and stop leaves nothing running."""
    with PrivateDaemon(tmp_path / "root", binary=ollama_binary) as daemon:
        register(daemon, teacher_gguf, "crash-test:1")
        ask(daemon, "crash-test:1")
        orphans = daemon.runners()
        assert orphans
        daemon.kill()
        assert not gone(orphans)
        host = daemon.host
        daemon.restart()
        assert gone(orphans)
        assert daemon.host == host
        ask(daemon, "crash-test:1")  # the model is still there
        runners, pid = daemon.runners(), daemon.pid
        assert runners
        assert pid is not None
    assert gone(runners)
    assert not psutil.pid_exists(pid)


@pytest.fixture
def users_daemon(ollama_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user with an empty home, ``ollama`` on PATH, and no daemon running."""
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("OLLAMA_HOST", address)
    monkeypatch.setenv("OLLAMA_NO_CLOUD", "1")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("PATH", f"{ollama_binary.parent}{os.pathsep}{os.environ['PATH']}")
    return address


def test_two_starters_end_with_one_daemon(users_daemon: str) -> None:
    """Processes that ask at the same moment share one daemon, and it outlives both."""
    starters = [
        subprocess.Popen([sys.executable, "-c", _STARTER], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    try:
        answers = {starter.communicate(timeout=120)[0].strip() for starter in starters}
        assert answers == {f"http://{users_daemon}"}
        serving = [
            process
            for process in psutil.process_iter(["cmdline", "environ"])
            if "serve" in (process.info["cmdline"] or [])
            and (process.info["environ"] or {}).get("OLLAMA_HOST") == users_daemon
        ]
        assert len(serving) == 1
        assert ensure.daemon_status()["started_by_us"] is True
    finally:
        assert ensure.stop_daemon() is True
    assert ensure.daemon_status()["running"] is False


def test_store_of_a_started_daemon_is_the_users(users_daemon: str, tmp_path: Path) -> None:
    """What is registered with a daemon that we start lies in the user's own store."""
    (tmp_path / "user").mkdir()
    ensure.ensure_daemon()
    try:
        assert (tmp_path / "user" / ".ollama" / "models").is_dir()
    finally:
        ensure.stop_daemon()


def test_private_daemon_reports_what_ollama_says_at_a_failed_start(
    ollama_binary: Path, tmp_path: Path
) -> None:
    """Where Ollama refuses to start, its own reason is in the error."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "models").write_text("a file where a folder must be")
    daemon = PrivateDaemon(
        tmp_path / "other", binary=ollama_binary, env={"OLLAMA_MODELS": str(root / "models")}
    )
    with pytest.raises(DaemonInstallError, match="not a directory"):
        daemon.start()
    assert daemon.pid is None
