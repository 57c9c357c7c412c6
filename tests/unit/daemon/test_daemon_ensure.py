"""The user's daemon: used if it runs, else started once, and stopped only if it is ours."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from fakes.command_line import run_in_process
from fakes.daemon import FakeDaemon
from fakes.private_daemon import PrivateDaemon, free_port
from fakes.processes import has_ended

from ollama_bridge.assets import home_dir
from ollama_bridge.daemon import ensure, launch, service
from ollama_bridge.doctor import run_doctor
from ollama_bridge.errors import DaemonInstallError, DaemonUnreachableError
from ollama_bridge.reporting import Event, Note, NullReporter

_STARTER = "from ollama_bridge.daemon.ensure import ensure_daemon; print(ensure_daemon().host)"


class Recorder:
    """Keeps what was reported."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)


@pytest.fixture
def host(fake_ollama: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A free address in OLLAMA_HOST and a fake ``ollama`` on PATH; all stopped at the end."""
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("OLLAMA_HOST", address)
    monkeypatch.setenv("PATH", f"{fake_ollama.parent}:{os.environ['PATH']}")
    yield f"http://{address}"
    ensure.stop_daemon()


def test_started_daemon_serves_the_users_store_and_outlives_the_call(host: str) -> None:
    """It gets the user's own environment, and stop ends it with its runner."""
    recorder = Recorder()
    daemon = ensure.ensure_daemon(reporter=recorder)
    assert daemon.host == host
    assert [type(event) for event in recorder.events] == [Note]
    status = ensure.daemon_status()
    assert status["running"] is status["started_by_us"] is True
    log = (home_dir() / "daemon" / "ollama.log").read_text()
    assert f'"HOME": "{os.environ["HOME"]}"' in log
    assert "OLLAMA_NO_CLOUD" not in log  # the user's own Ollama keeps the user's settings
    process = psutil.Process(int(str(status["pid"])))
    runners = process.children()
    assert ensure.stop_daemon() is True
    assert has_ended(process)
    assert all(map(has_ended, runners))
    assert ensure.daemon_status()["running"] is False
    assert ensure.stop_daemon() is False


def test_the_log_is_for_its_owner(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ollama writes a proxy's password there; secrets for registries it is not even given.

    One that all could read is closed, also where it is put aside.
    """
    monkeypatch.setenv("OLLAMA_BRIDGE_REGISTRY_PASSWORD", "s3cret")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy:3128")
    monkeypatch.setattr(launch, "_LOG_LIMIT_BYTES", 1 << 20)
    folder = home_dir() / "daemon"
    folder.mkdir(parents=True)
    before = folder / "ollama.log"
    before.write_text("short\n")
    before.chmod(0o644)
    ensure.ensure_daemon()
    log = before.read_text()
    assert log.startswith("short\n")
    assert "me:secret@proxy" in log
    assert "s3cret" not in log
    assert ensure.stop_daemon()
    with before.open("ab") as stream:
        stream.truncate(2 << 20)
    before.chmod(0o644)
    ensure.ensure_daemon()
    put_aside = folder / "ollama.old.log"
    assert put_aside.stat().st_size == 2 << 20
    assert before.stat().st_size < 1 << 20
    for path in (before, put_aside):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_who_asks_is_told_that_a_daemon_was_started(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And how to stop it; on stderr, so that answers stay alone."""
    done = run_in_process(monkeypatch, ["generate", "m", "hi"])
    assert done.stderr.startswith(f"daemon: started Ollama 0.34.4 at {host}")
    assert "stop it with: ollama-bridge daemon stop" in done.stderr
    assert done.stdout == ""


def test_a_daemon_is_ours_whatever_the_clock_says(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that was corrected meanwhile moves every process's time as psutil tells it."""
    ensure.ensure_daemon()
    process = psutil.Process(int(str(ensure.daemon_status()["pid"])))
    told = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: told(self) + 3600)
    assert ensure.daemon_status()["started_by_us"] is True
    assert ensure.stop_daemon() is True
    assert has_ended(process)


def test_a_daemon_whose_record_cannot_be_written_is_ended(host: str) -> None:
    """Nobody could stop it later: a full disk, or here a folder in the record's place."""
    port = host.rpartition(":")[2]
    record = home_dir() / "daemon" / f"ollama-{platform.node()}-{port}.json"
    record.mkdir(parents=True)
    before = psutil.Process().children()
    with pytest.raises(IsADirectoryError):
        ensure.ensure_daemon()
    assert [one for one in psutil.Process().children() if one not in before] == []
    record.rmdir()


def test_daemons_of_another_machine_are_left_to_it(host: str) -> None:
    """Their records lie beside ours where the home is on a disk that machines share.

    Also where its name begins with ours.
    """
    ensure.ensure_daemon()
    (own,) = (home_dir() / "daemon").glob("ollama-*.json")
    record = json.loads(own.read_text())
    gone = json.dumps({**record, "started_s": record["started_s"] + 1})
    others = [own.with_name(f"ollama-{platform.node()}{name}-1.json") for name in ("-2", "x")]
    for other in others:
        other.write_text(gone)
    assert ensure.stop_daemon() is True
    assert not own.exists()
    assert [other.read_text() for other in others] == [gone, gone]


@pytest.mark.parametrize("name", ["ollama-{port}.json", "ollama-as-it-was-called-{port}.json"])
def test_a_daemon_of_before_this_machine_had_its_name_is_ours(host: str, name: str) -> None:
    """Or of a version that wrote no name: it would have kept its memory until it is killed.

    A laptop is called otherwise in every network.
    """
    ensure.ensure_daemon()
    (own,) = (home_dir() / "daemon").glob("ollama-*.json")
    daemon = psutil.Process(json.loads(own.read_text())["pid"])
    port = host.rpartition(":")[2]
    record = own.rename(own.with_name(name.format(port=port)))
    status = ensure.daemon_status()
    assert (status["started_by_us"], status["pid"]) == (True, daemon.pid)
    assert status["log"] == ensure.log_path()
    elsewhere = ensure.daemon_status(host=f"127.0.0.1:{free_port()}")
    assert elsewhere["started_by_us"] is False
    assert ensure.stop_daemon() is True
    assert not record.exists()
    assert has_ended(daemon)


def test_running_daemon_is_used_and_never_stopped(
    host: str, fake_ollama: Path, tmp_path: Path
) -> None:
    """A daemon that somebody else started is used, and stop does not touch it."""
    with PrivateDaemon(tmp_path / "other", binary=fake_ollama) as other:
        recorder = Recorder()
        daemon = ensure.ensure_daemon(reporter=recorder, host=other.host)
        assert daemon.host == other.host
        assert recorder.events == []
        assert ensure.stop_daemon() is False
        assert other.pid is not None
        assert ensure.daemon_status(host=other.host)["started_by_us"] is False


def test_two_starters_start_one_daemon(host: str) -> None:
    """Processes that ask at the same moment end with one daemon that both use."""
    starters = [
        subprocess.Popen([sys.executable, "-c", _STARTER], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [starter.communicate()[0].strip() for starter in starters] == [host, host]
    log = (home_dir() / "daemon" / "ollama.log").read_text()
    assert log.count("environment ") == 1
    assert ensure.stop_daemon() is True


def test_two_homes_end_with_one_daemon(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starters that share a port but no lock: the one that loses uses the winner's daemon."""
    environments = [
        {**os.environ, "OLLAMA_BRIDGE_HOME": str(tmp_path / f"home{number}")} for number in (1, 2)
    ]
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", _STARTER], stdout=subprocess.PIPE, text=True, env=environment
        )
        for environment in environments
    ]
    answers = [starter.communicate()[0].strip() for starter in starters]
    assert answers == [host, host]
    stopped = []
    for environment in environments:
        monkeypatch.setenv("OLLAMA_BRIDGE_HOME", environment["OLLAMA_BRIDGE_HOME"])
        stopped.append(ensure.stop_daemon())
    assert sorted(stopped) == [False, True]


def test_restart_after_a_kill_ends_the_orphaned_runner(host: str) -> None:
    """Where a daemon of ours was killed, the next start ends the runner it left."""
    ensure.ensure_daemon()
    pid = int(str(ensure.daemon_status()["pid"]))
    (orphan,) = psutil.Process(pid).children()
    os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(timeout=60)
    assert orphan.is_running()
    ensure.ensure_daemon()
    assert has_ended(orphan)


def test_daemon_of_another_machine_is_not_started_here() -> None:
    """An address elsewhere that does not answer is an error that says so."""
    with pytest.raises(DaemonUnreachableError, match=r"only be started at 127\.0\.0\.1"):
        ensure.start_daemon(host="192.0.2.1:11434")


def test_no_binary_is_an_error_that_offers_the_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing running and nothing to start, the hint is the command that installs one."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("OLLAMA_BRIDGE_DAEMON_DIR", str(tmp_path / "none"))
    with pytest.raises(DaemonInstallError) as caught:
        ensure.ensure_daemon(host=f"127.0.0.1:{free_port()}")
    assert caught.value.hint == "ollama-bridge daemon install"


@pytest.fixture
def stopped_service(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where systemd notes that Ollama's service is enabled; nothing answers at its port."""
    monkeypatch.setattr(service, "DEFAULT_PORT", int(host.rpartition(":")[2]))
    monkeypatch.setattr(service, "_BOOTED", tmp_path)
    monkeypatch.setattr(service, "_UNITS", tmp_path)
    link = tmp_path / "default.target.wants" / "ollama.service"
    link.parent.mkdir()
    (tmp_path / "ollama.service").touch()
    link.symlink_to("../ollama.service")
    return link


def test_in_the_place_of_a_stopped_service_no_other_store_is_served(
    stopped_service: Path, fake_ollama: Path
) -> None:
    """Its models would seem to be gone, and the port would be kept from it."""
    write_systemctl(fake_ollama, "inactive")
    with pytest.raises(DaemonInstallError, match="service, which has the models, is stopped") as no:
        ensure.ensure_daemon()
    assert (no.value.hint or "").startswith("sudo systemctl start ollama;")
    assert ensure.daemon_status()["running"] is False
    (finding,) = [one for one in run_doctor() if one.name == "daemon"]
    assert (finding.status, finding.repair) == ("problem", None)
    assert finding.detail.endswith("is stopped")


@pytest.mark.parametrize(
    ("state", "found", "fix"),
    [
        (
            "active",
            "running, but not there",
            "systemctl show ollama -p Environment; export OLLAMA_",
        ),
        ("activating", "does not come up", "journalctl -u ollama"),
        ("failed", "does not come up", "journalctl -u ollama"),
        ("", "does not answer", "sudo systemctl restart ollama"),
    ],
)
def test_a_service_that_was_not_stopped(
    stopped_service: Path,
    fake_ollama: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    found: str,
    fix: str,
) -> None:
    """To start it would change nothing: it listens elsewhere, or fails each time."""
    monkeypatch.setattr(service, "_START_LIMIT_S", 0.1)
    write_systemctl(fake_ollama, state)
    with pytest.raises(DaemonInstallError, match=found) as caught:
        ensure.ensure_daemon()
    (finding,) = [one for one in run_doctor() if one.name == "daemon"]
    assert finding.detail.endswith(found)
    for hint in (caught.value.hint, finding.fix):
        assert (hint or "").startswith(fix)
        assert "export OLLAMA_MODELS=" in (hint or "")


def test_a_service_that_was_just_started_is_waited_for(
    stopped_service: Path, fake_ollama: Path, host: str
) -> None:
    """systemd calls it active before it listens."""
    write_systemctl(fake_ollama, "active")
    port = int(host.rpartition(":")[2])
    started: list[FakeDaemon] = []

    class Starting(NullReporter):
        def emit(self, event: Event) -> None:
            if isinstance(event, Note) and "waiting for Ollama's service" in event.message:
                started.append(FakeDaemon(port=port).__enter__())

    try:
        found = ensure.ensure_daemon(reporter=Starting())
        assert found.host.endswith(str(port))
    finally:
        for daemon in started:
            daemon.__exit__(None, None, None)


def write_systemctl(fake_ollama: Path, state: str) -> None:
    """One that says how Ollama's service is; empty: it fails."""
    systemctl = fake_ollama.with_name("systemctl")
    says = f"echo {state}" if state else ":"
    systemctl.write_text(f'#!/bin/sh\n[ "$*" = "is-active ollama" ] && {says}\nexit 3\n')
    systemctl.chmod(0o755)


@pytest.mark.parametrize("which", ["disabled", "another store", "another port"])
def test_what_is_not_the_services_is_started(
    stopped_service: Path, which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that was disabled, or a store that the user named."""
    if which == "disabled":
        stopped_service.unlink()
    if which == "another store":
        monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))
    if which == "another port":
        monkeypatch.setattr(service, "DEFAULT_PORT", free_port())
    ensure.ensure_daemon()
    assert ensure.stop_daemon() is True
