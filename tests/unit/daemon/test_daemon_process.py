"""Private daemons: started, stopped, killed, and never left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from fakes import private_daemon
from fakes.private_daemon import PrivateDaemon
from fakes.processes import has_ended

from ollama_bridge.daemon import launch
from ollama_bridge.errors import DaemonError, DaemonInstallError


def all_gone(processes: list[psutil.Process]) -> bool:
    """Whether all of them have ended."""
    return all(map(has_ended, processes))


def environment_of(daemon: PrivateDaemon) -> dict[str, str]:
    """What the fake says it was started with."""
    lines = daemon.log_path.read_text().splitlines()
    said = [line for line in lines if line.startswith("environment ")]
    return dict(json.loads(said[-1].removeprefix("environment ")))


def test_stop_ends_daemon_and_runner(fake_ollama: Path, tmp_path: Path) -> None:
    """After the block neither the daemon nor its runner is there, and no record is left."""
    with PrivateDaemon(tmp_path / "root", binary=fake_ollama) as daemon:
        pid, runners = daemon.pid, daemon.runners()
        assert pid is not None
        assert len(runners) == 1
        with daemon.client() as client:
            assert client.version() == "0.34.4"
    assert daemon.pid is None
    assert not psutil.pid_exists(pid)
    assert all_gone(runners)
    assert not (tmp_path / "root" / "daemon.json").exists()


def test_private_daemon_sees_nothing_of_the_user(
    fake_ollama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Own home and model folder, no cloud, no pruning; the user's OLLAMA_* variables stay out."""
    monkeypatch.setenv("OLLAMA_MODELS", "/home/user/.ollama/models")
    monkeypatch.setenv("OLLAMA_DEBUG", "1")
    root = tmp_path / "root"
    with PrivateDaemon(root, binary=fake_ollama, env={"OLLAMA_KEEP_ALIVE": "7s"}) as daemon:
        seen = environment_of(daemon)
    assert seen["HOME"] == str(root / "home")
    assert seen["OLLAMA_MODELS"] == str(root / "models")
    assert seen["OLLAMA_NO_CLOUD"] == seen["OLLAMA_NOPRUNE"] == "1"
    assert seen["OLLAMA_KEEP_ALIVE"] == "7s"
    assert "OLLAMA_DEBUG" not in seen


def test_kill_leaves_an_orphan_that_restart_ends(fake_ollama: Path, tmp_path: Path) -> None:
    """A killed daemon's runner lives on until the restart, which keeps the address."""
    with PrivateDaemon(tmp_path / "root", binary=fake_ollama) as daemon:
        host, orphans = daemon.host, daemon.runners()
        daemon.kill()
        assert daemon.pid is None
        assert not all_gone(orphans)
        daemon.restart()
        assert all_gone(orphans)
        assert daemon.host == host
        assert daemon.pid is not None


def test_next_daemon_ends_what_a_dead_process_left(fake_ollama: Path, tmp_path: Path) -> None:
    """A daemon whose owner died without stopping it is ended by the next one in its folder."""
    abandoned = PrivateDaemon(tmp_path / "root", binary=fake_ollama)
    abandoned.start()
    pid, runners = abandoned.pid, abandoned.runners()
    with PrivateDaemon(tmp_path / "root", binary=fake_ollama) as daemon:
        assert daemon.pid != pid
        assert abandoned.pid is None
        assert all_gone(runners)
    abandoned.stop()


def test_failure_at_start_says_why(fake_ollama: Path, tmp_path: Path) -> None:
    """A daemon that ends at once is reported with its last word and its log."""
    daemon = PrivateDaemon(
        tmp_path / "root", binary=fake_ollama, env={"FAKE_FAILURE": "no such GPU"}
    )
    with pytest.raises(DaemonInstallError, match="no such GPU") as caught:
        daemon.start()
    assert str(daemon.log_path) in str(caught.value.hint)
    assert daemon.pid is None


def test_a_taken_port_is_left_for_another(
    fake_ollama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the chosen port was taken meanwhile, the next one is tried."""
    with PrivateDaemon(tmp_path / "first", binary=fake_ollama) as first:
        taken, free_port = int(first.host.rpartition(":")[2]), private_daemon.free_port
        offered = iter([taken])
        monkeypatch.setattr(private_daemon, "free_port", lambda: next(offered, None) or free_port())
        with PrivateDaemon(tmp_path / "root", binary=fake_ollama) as daemon:
            assert next(offered, None) is None
            assert daemon.host != first.host
            assert first.pid is not None


def test_slow_start_ends_in_an_error_and_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that never answers is ended when the wait is over."""
    silent = tmp_path / "ollama"
    silent.write_text("#!/bin/sh\nexec sleep 60\n")
    silent.chmod(0o755)
    monkeypatch.setattr(launch, "START_LIMIT_S", 0.2)
    daemon = PrivateDaemon(tmp_path / "root", binary=silent)
    with pytest.raises(DaemonInstallError, match="did not answer"):
        daemon.start()
    record = launch.ProcessRecord.read(tmp_path / "root" / "daemon.json")
    assert record is not None
    assert record.process() is None


def test_no_binary_and_no_start_are_errors_with_hints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_ollama: Path
) -> None:
    """Without a binary there is a hint to install one; an unstarted daemon has no address."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("OLLAMA_BRIDGE_DAEMON_DIR", str(tmp_path / "none"))
    with pytest.raises(DaemonInstallError) as caught:
        PrivateDaemon(tmp_path / "root")
    assert caught.value.hint == "ollama-bridge daemon install"
    with pytest.raises(DaemonError, match="never started"):
        _ = PrivateDaemon(tmp_path / "root", binary=fake_ollama).host


def test_a_reused_process_number_is_not_ours() -> None:
    """A process of the same number but another start time is never touched."""
    mine = launch.ProcessRecord(os.getpid(), time.time() - 10_000, "http://x", "ollama")
    assert mine.process() is None
    assert mine.runners() == []


def test_only_runners_of_the_group_are_found(tmp_path: Path) -> None:
    """A process of the dead daemon's group that is no runner is left alone."""
    (tmp_path / "llama-server").symlink_to("/bin/sleep")
    script = f"sleep 60 & {tmp_path}/llama-server 60 & echo; wait"
    group = subprocess.Popen(
        ["sh", "-c", script], start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    assert group.stdout is not None
    group.stdout.readline()
    record = launch.ProcessRecord.of(group, host="http://x", binary=tmp_path)
    try:
        while len(psutil.Process(group.pid).children()) < 2:
            time.sleep(0.01)
        group.kill()
        group.wait()
        deadline_s = time.monotonic() + 10
        while not record.runners() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert [one.name() for one in record.runners()] == ["llama-server"]
    finally:
        os.killpg(group.pid, signal.SIGKILL)
        group.stdout.close()


def test_a_runner_that_nobody_collects_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container, whose process 1 collects no orphans: one look, not the whole limit."""
    (tmp_path / "llama-server").symlink_to("/bin/sleep")
    parent = subprocess.Popen(["sh", "-c", f"{tmp_path}/llama-server 60 & exec sleep 60"])
    looks: list[float] = []
    wait = psutil.wait_procs

    def counted(processes: list[psutil.Process], timeout: float) -> object:
        looks.append(timeout)
        return wait(processes, timeout=timeout)

    monkeypatch.setattr(psutil, "wait_procs", counted)
    try:
        while not (found := psutil.Process(parent.pid).children()):
            time.sleep(0.01)
        (runner,) = found
        record = launch.ProcessRecord(parent.pid + 2**22, 0.0, "http://x", "ollama")
        monkeypatch.setattr(launch.ProcessRecord, "runners", lambda _: [runner])
        launch.end(record)
        assert has_ended(runner)
        assert looks == [launch._POLL_INTERVAL_S]
    finally:
        parent.kill()
        parent.wait()


def test_damaged_record_counts_as_none(tmp_path: Path) -> None:
    """A record that cannot be read is no record."""
    path = tmp_path / "daemon.json"
    for text in ("", "[]", '{"pid": "x"}', "null"):
        path.write_text(text)
        assert launch.ProcessRecord.read(path) is None
