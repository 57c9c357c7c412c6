"""What the doctor finds, and that every problem comes with its fix."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import psutil
import pytest
from fakes.command_line import example, run_in_process
from fakes.daemon import FakeDaemon, Fault
from fakes.private_daemon import free_port
from typer.testing import CliRunner

from ollama_bridge import doctor, machine
from ollama_bridge.cli import app
from ollama_bridge.daemon import runners as daemon_runners
from ollama_bridge.daemon.ensure import start_daemon
from ollama_bridge.daemon.find import RunningDaemon, find_daemon
from ollama_bridge.doctor import Finding, run_doctor
from ollama_bridge.errors import DaemonInstallError, DaemonUnreachableError


@pytest.fixture(autouse=True)
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch takes seconds to import; the tests that want it ask for it."""
    found = doctor.importlib.util.find_spec
    monkeypatch.setattr(
        doctor.importlib.util, "find_spec", lambda name: None if name == "torch" else found(name)
    )


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    """Findings by their name."""
    return {finding.name: finding for finding in findings}


def test_everything_is_looked_at_once() -> None:
    """Each thing is one finding, and what is not well has a fix."""
    findings = run_doctor(host=f"127.0.0.1:{free_port()}")
    names = [finding.name for finding in findings]
    assert names[:6] == ["cores", "memory", "types", "accelerator", "disk", "packages"]
    assert names[6] == "daemon"
    assert all(finding.fix for finding in findings if finding.status != "ok")


def test_running_daemon_is_named_with_its_era(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that answers is ok, with version, contract and what it cannot do."""
    found = RunningDaemon("http://h:1", "0.33.2", "0.33", tmp_path)
    monkeypatch.setattr(doctor, "find_daemon", lambda _: found)
    finding = by_name(run_doctor())["daemon"]
    assert finding.status == "ok"
    assert "0.33.2" in finding.detail
    assert "it does not keep an uploaded GGUF byte for byte: its digest" in finding.detail


def test_what_a_killed_proof_left_is_told_with_what_removes_it() -> None:
    """Nobody knows the name in `ollama ls`, and the next proof of another tag waits an hour."""
    with FakeDaemon() as daemon:
        assert "models" not in by_name(run_doctor(host=daemon.host))
        left = ["ollama-bridge/candidate:0123456789abcdef", "ollama-bridge/renderer:trial"]
        daemon.models |= dict.fromkeys(left, "e" * 64)
        found = by_name(run_doctor(host=daemon.host))["models"]
        assert found.detail.startswith("2 model(s) of a proof that was killed")
        assert found.fix == f"ollama-bridge rm {' '.join(left)} --host {daemon.host}"
        removed = CliRunner().invoke(app, shlex.split(found.fix)[1:])
        assert removed.exit_code == 0
        assert "models" not in by_name(run_doctor(host=daemon.host))


def test_taken_port_is_a_problem_with_the_daemons_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another program does on the port is passed on, not raised."""

    def taken(host: str | None) -> None:
        raise DaemonInstallError("port is taken", hint="choose another")

    monkeypatch.setattr(doctor, "find_daemon", taken)
    finding = by_name(run_doctor())["daemon"]
    assert (finding.status, finding.detail, finding.fix) == (
        "problem",
        "port is taken",
        "choose another",
    )


def test_no_daemon_and_no_binary_also_looks_at_the_build_tools(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without any Ollama the fix is an install, and missing tools are named."""

    def missing() -> None:
        raise DaemonInstallError("missing here: g++", hint="apt-get install -y g++")

    monkeypatch.setattr(doctor, "find_daemon", lambda _: None)
    monkeypatch.setattr(doctor, "find_binary", lambda: None)
    monkeypatch.setattr(doctor, "find_toolchain", missing)
    findings = by_name(run_doctor())
    assert findings["daemon"].status == "problem"
    assert "ollama-bridge daemon install" in str(findings["daemon"].fix)
    assert findings["build tools"].fix == "apt-get install -y g++"


@pytest.mark.parametrize(("free_gib", "status"), [(1, "problem"), (5, "warning"), (100, "ok")])
def test_disk_is_judged_by_what_a_run_needs(
    free_gib: int, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too little space stands in the way, little space is worth a warning."""
    usage = namedtuple("usage", "total used free")  # noqa: PYI024  the shape of shutil's own
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, free_gib * 1024**3))
    assert by_name(run_doctor())["disk"].status == status


def test_a_container_s_limit_of_cores_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine of 64 the converter may start two processes, and the doctor says so."""
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(machine, "allowed_cores", lambda: 64)
    (tmp_path / "cpu.max").write_text("200000 100000\n")
    assert machine.cores() == 2
    assert by_name(run_doctor())["cores"].detail.endswith("but a container limit of 2")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.cores() == 64


def test_missing_packages_name_the_extra() -> None:
    """Without torch the fix is the extra that brings it."""
    finding = by_name(run_doctor())["packages"]
    assert finding.status == "warning"
    assert "torch" in finding.detail
    assert finding.fix == "pip install 'ollama-bridge[train]'"


def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {0}, raising=False)


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = namedtuple("memory", "total available")  # noqa: PYI024  as psutil's own
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: memory(2**30, 2**20))


def full(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")  # noqa: PYI024  as shutil's own
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 0))


def without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver, and a PyTorch that was built without."""
    no = SimpleNamespace(is_available=lambda: False)
    torch = SimpleNamespace(cuda=no, backends=SimpleNamespace(mps=no), __version__="2.15+cpu")
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")


def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a PyTorch that was taken away a folder is left, which Python takes for a module."""
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: name)


def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda _: None)


def taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a web server."""
    with FakeDaemon(fault=Fault.HTML_PAGE) as page:
        try:
            find_daemon(page.host)
        except DaemonInstallError as error:
            problem = error

    def find(_: str | None) -> None:
        raise problem

    monkeypatch.setattr(doctor, "find_daemon", find)


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_daemon", lambda _: None)
    monkeypatch.setenv("OLLAMA_HOST", "192.0.2.1:11434")


def commandless(monkeypatch: pytest.MonkeyPatch) -> None:
    running = RunningDaemon("http://h:1", "0.34.4", "0.34", None)
    monkeypatch.setattr(doctor, "find_daemon", lambda _: running)


def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_daemon", lambda _: None)
    monkeypatch.setattr(doctor, "find_binary", lambda: None)


def toolless(monkeypatch: pytest.MonkeyPatch) -> None:
    absent(monkeypatch)
    monkeypatch.setenv("PATH", "/nowhere")


@pytest.mark.parametrize(
    ("trouble", "name"),
    [
        (alone, "cores"),
        (small, "memory"),
        (full, "disk"),
        (without_cuda, "accelerator"),
        (broken, "accelerator"),
        (untrained, "packages"),
        (taken, "daemon"),
        (elsewhere, "daemon"),
        (commandless, "daemon"),
        (absent, "daemon"),
        (toolless, "build tools"),
    ],
)
def test_every_finding_says_what_to_type(
    trouble: Callable[[pytest.MonkeyPatch], None], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command of ours, of a package manager's or of the shell's."""
    trouble(monkeypatch)
    finding = by_name(run_doctor())[name]
    assert finding.status != "ok"
    assert re.search(
        r"(^|: |\(|`)(ollama-bridge \w|pip install|apt-get install|curl -|export \w|unset \w)",
        str(finding.fix),
    ), finding.fix


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise OSError('undefined symbol: x\\nmore')", "undefined symbol: x"),
        ("import ollama_bridge.none", "No module named 'ollama_bridge.none'"),
    ],
)
def test_a_pytorch_that_cannot_be_loaded_is_a_problem(
    text: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And all the rest is told."""
    (tmp_path / "torch.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: name)
    findings = by_name(run_doctor())
    detail = f"PyTorch is installed, but cannot be used: {reason}"
    assert findings["accelerator"] == Finding(
        "accelerator", "problem", detail, "pip install --force-reinstall torch"
    )
    assert "daemon" in findings


@pytest.mark.parametrize("host", ["https://localhost", "localhost/ollama"])
def test_an_address_at_which_nothing_can_be_started_is_a_problem(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is this machine's, and yet no daemon of ours could answer there."""
    monkeypatch.setattr(doctor, "find_daemon", lambda _: None)
    monkeypatch.setattr(doctor, "find_binary", lambda: Path("ollama"))
    finding = by_name(run_doctor(host=host))["daemon"]
    assert (finding.status, finding.repair) == ("problem", None)
    with pytest.raises(DaemonUnreachableError):
        start_daemon(host=host)


def test_runners_that_a_killed_daemon_left_are_told(tmp_path: Path) -> None:
    """With what they hold and how they are ended; one that has a parent is somebody's.

    So is a server of llama.cpp's that somebody built and left to run with Ollama's files.
    """
    runner, another = tmp_path / "lib" / "ollama" / "llama-server", tmp_path / "llama-server"
    runner.parent.mkdir(parents=True)
    for program in (runner, another):
        program.symlink_to(Path(sys.executable).resolve())
    words = ["-c", "import time; time.sleep(60)", f"/models/sha256-{'a' * 64}"]
    script = "".join(
        f"{shlex.join([str(one), *words])} >&- 2>&- & echo $!\n" for one in (runner, another)
    )
    # As a group of its own: whoever started the tests, and leads this one's, may be gone.
    with subprocess.Popen([runner, *words], process_group=0) as owned:
        started = subprocess.run(
            ["sh", "-c", script],
            capture_output=True,
            text=True,
            check=True,
            start_new_session=True,  # as a daemon has it
        )
        left, theirs = (psutil.Process(int(pid)) for pid in started.stdout.split())
        try:
            while {left.name(), theirs.name()} != {runner.name}:  # they are the shell still
                time.sleep(0.001)
            (finding,) = (one for one in run_doctor() if one.name == "runners")
        finally:
            left.kill()
            theirs.kill()
            owned.kill()
    assert (finding.status, "GiB" in finding.detail) == ("warning", True)
    ids = str(finding.fix).removeprefix("kill ").split()
    assert str(left.pid) in ids
    assert not {str(owned.pid), str(theirs.pid)} & set(ids)


def test_a_runner_that_is_just_ending_is_none_that_was_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has given up its memory, and its command line with it."""
    ending = SimpleNamespace(name=lambda: "llama-server", cmdline=list)
    monkeypatch.setattr(daemon_runners, "runners", lambda: [ending])
    assert daemon_runners.left_runners() == []


@pytest.mark.parametrize(("binary", "installs"), [(Path("ollama"), 0), (None, 1)])
def test_what_can_be_repaired_is(
    monkeypatch: pytest.MonkeyPatch, binary: Path | None, installs: int
) -> None:
    """A daemon that does not run is started; one that is not there is installed first."""
    from ollama_bridge import cli
    from ollama_bridge.daemon import install

    done: list[str] = []
    running = RunningDaemon("http://h:1", "0.34.4", "0.34", binary)

    def start(**_: object) -> RunningDaemon:
        done.append("start")
        monkeypatch.setattr(doctor, "find_daemon", lambda _: running)
        return running

    monkeypatch.setattr(doctor, "find_daemon", lambda _: None)
    monkeypatch.setattr(doctor, "find_binary", lambda: binary)
    monkeypatch.setattr(doctor, "ensure_daemon", start)
    monkeypatch.setattr(install, "install_daemon", lambda **_: done.append("install"))
    result = CliRunner().invoke(cli.app, example("doctor --fix"))
    assert done == ["install"] * installs + ["start"]
    assert "fixed: Ollama 0.34.4 answers at http://h:1" in result.stderr
    assert "Ollama 0.34.4 at http://h:1" in result.stdout
    assert "Ollama 0.34.4 at http://h:1" in CliRunner().invoke(cli.app, example("doctor")).stdout


def test_a_repair_that_fails_is_told_with_its_fix_behind_the_findings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With --json too, whose document is whole by then."""

    def start(**_: object) -> RunningDaemon:
        raise DaemonUnreachableError("the port is taken", hint="kill 1234")

    monkeypatch.setattr(doctor, "find_daemon", lambda _: None)
    monkeypatch.setattr(doctor, "find_binary", lambda: Path("ollama"))
    monkeypatch.setattr(doctor, "ensure_daemon", start)
    done = run_in_process(monkeypatch, ["doctor", "--fix", "--json"])
    assert done.code == DaemonUnreachableError.exit_code
    assert all("status" in finding for finding in json.loads(done.stdout))
    assert done.stderr.endswith("error: the port is taken\nfix:   kill 1234\n")
