"""What is seen of a daemon and its runners, what is wrong, and how people are told."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes.daemon import FakeDaemon, Fault, nobody_listens
from fakes.snapshots import CALM
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from typer.testing import CliRunner

from ollama_bridge import cli
from ollama_bridge.cli import monitor
from ollama_bridge.cli.monitor_view import view
from ollama_bridge.errors import ConfigError, DaemonError
from ollama_bridge.monitoring import (
    GPU,
    Loaded,
    Machine,
    Observer,
    Runner,
    Snapshot,
    exposition,
    observer,
)

DIGEST = "a" * 64
# A runner as the machine shows it: a process of that name, with a port at which it tells its slots.
RUNNER = """
import http.server, itertools, json, sys
tokens, tasks = itertools.count(10, int(sys.argv[1])), itertools.count(7, int(sys.argv[5]))
looks = itertools.count()
class Slots(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        is_busy = next(looks) != int(sys.argv[6])
        made = next(tokens) if is_busy else 0
        body = json.dumps([
            {"id": 0, "is_processing": is_busy, "id_task": next(tasks), "prompt": "a secret",
             "n_prompt_tokens_processed": 5, "next_token": [{"n_decoded": made}]},
            {"id": 1, "is_processing": False, "id_task": 3, "next_token": {"n_decoded": 99}},
        ]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[3])), Slots)
print("ready", flush=True)
server.serve_forever()
"""


def free_port() -> int:
    return int(nobody_listens().rpartition(":")[2])


@pytest.fixture
def runner(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[subprocess.Popen[str]]:
    """A llama-server that makes so many tokens, in so many tasks, between two looks.

    At a look whose number is given, it is idle: the count is gone then, as of a real one.
    """
    monkeypatch.setattr(observer, "_SLOTS_LIMIT_S", 30.0)  # of a machine that has other work
    binary = tmp_path / "llama-server"
    binary.symlink_to(Path(sys.executable).resolve())
    made, tasks, *ends_at = request.param
    blob = f"/models/sha256-{DIGEST}"
    arguments = [
        str(made),
        "--port",
        str(free_port()),
        blob,
        str(tasks),
        *map(str, ends_at or [-1]),
    ]
    process = subprocess.Popen(
        [str(binary), "-c", RUNNER, *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def found(snapshot: Snapshot, process: subprocess.Popen[str]) -> Runner:
    (runner,) = (one for one in snapshot.runners if one.pid == process.pid)
    return runner


@pytest.mark.parametrize("runner", [(6, 0)], indirect=True)
def test_a_runner_s_tokens_are_counted(runner: subprocess.Popen[str]) -> None:
    """By the name of the model, with rates from the second look on; prompts are not kept."""
    with FakeDaemon(models={"m:latest": "d" * 64}) as daemon:
        daemon.shown["modelfile"] = f"FROM /models/blobs/sha256-{DIGEST}\n"
        with Observer(daemon.host) as observer:
            assert found(observer.look(), runner).tokens_per_s == 0
            time.sleep(0.05)
            snapshot = observer.look()
        with (
            FakeDaemon(models={"m:latest": "d" * 64}),
            Observer(nobody_listens(), limit_s=0.2) as another,
        ):
            seen = another.look().runners
            assert runner.pid not in [one.pid for one in seen]  # its daemon is another
    one = found(snapshot, runner)
    assert (one.model, one.slots, one.busy, one.tokens) == ("m:latest", 2, 1, 16)
    assert (one.tokens_total, one.is_partial) == (6, False)
    assert 0 < one.tokens_per_s <= 6 / 0.05
    assert one.memory_bytes > 0
    assert snapshot.version == "0.34.4"
    assert [model.name for model in snapshot.loaded] == ["m:latest"]
    assert "secret" not in repr(snapshot) + exposition(snapshot)


@pytest.mark.parametrize("runner", [(0, 20)], indirect=True)
def test_what_came_and_went_between_two_looks_is_not_said_to_be_nothing(
    runner: subprocess.Popen[str],
) -> None:
    """Of a slot the last request alone is seen: there were at least so many tokens."""
    with FakeDaemon() as daemon, Observer(daemon.host) as observer:
        assert not found(observer.look(), runner).is_partial
        time.sleep(0.01)
        first, second = observer.look(), observer.look()
    seen = [found(one, runner) for one in (first, second)]
    assert [(one.tokens_total, one.is_partial) for one in seen] == [(10, True), (20, True)]
    assert second.is_partial
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(view(replace(CALM, runners=(seen[1],))))
    assert console.export_text().count(f">= {seen[1].tokens_per_s:.1f}") == 2


@pytest.mark.parametrize("runner", [(6, 0, 2)], indirect=True)
def test_the_end_of_a_request_is_not_seen(runner: subprocess.Popen[str]) -> None:
    """What was counted stays counted, as Prometheus wants it."""
    with FakeDaemon() as daemon, Observer(daemon.host) as observer:
        seen = [found(observer.look(), runner) for _ in range(3)]
    assert [(one.tokens_total, one.is_partial) for one in seen] == [
        (0, False),
        (6, False),
        (6, True),
    ]


@pytest.mark.parametrize("runner", [(6, 0)], indirect=True)
def test_a_daemon_of_another_machine_has_none_of_our_runners(
    runner: subprocess.Popen[str],
) -> None:
    """Nor their tokens, nor is it blamed for what is wrong here."""
    with Observer("http://192.0.2.1:11434", limit_s=0.05) as observer:
        snapshot = observer.look()
    assert (snapshot.runners, snapshot.tokens_per_s) == ((), None)
    hot = replace(snapshot, machine=replace(CALM.machine, memory_used_bytes=100))
    assert len(hot.alerts()) == 1  # that it does not answer
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(view(snapshot))
    assert "? tokens/s   queue ?   this machine: CPU" in console.export_text()


@pytest.mark.parametrize("runner", [(0, 0)], indirect=True)
def test_a_runner_that_gives_nothing_is_wedged(runner: subprocess.Popen[str]) -> None:
    """Busy, but neither reads nor writes tokens."""
    with FakeDaemon() as daemon, Observer(daemon.host) as observer:
        observer.look()
        time.sleep(0.05)
        snapshot = observer.look()
    assert found(snapshot, runner).stuck_s >= 0.05
    alerts = snapshot.alerts(wedge_s=0.05)
    assert any("is busy and has produced nothing" in alert for alert in alerts)
    assert not any("has produced nothing" in alert for alert in snapshot.alerts(wedge_s=60))


def test_a_runner_of_the_older_contract_is_seen(tmp_path: Path) -> None:
    """``ollama runner`` tells nothing of its requests, and the daemon beside it is none."""
    binary = tmp_path / "ollama"
    binary.symlink_to(Path(sys.executable).resolve())
    (tmp_path / "runner").write_text("import sys\nprint('ready', flush=True)\nsys.stdin.read()\n")
    (tmp_path / "serve").write_text((tmp_path / "runner").read_text())
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    arguments = ["--model", f"/models/sha256-{DIGEST}", "--port", str(free_port())]
    with contextlib.ExitStack() as stack:
        started = []
        for words in (["runner", *arguments], ["serve"]):
            process = subprocess.Popen([str(binary), *words], cwd=tmp_path, text=True, **pipes)
            started.append(stack.enter_context(process))
            stack.callback(process.kill)
            assert process.stdout.readline() == "ready\n"
        daemon = stack.enter_context(FakeDaemon(models={"m:latest": "d" * 64}))
        daemon.shown["modelfile"] = f"FROM /models/blobs/sha256-{DIGEST}\n"
        snapshot = stack.enter_context(Observer(daemon.host)).look()
    one = found(snapshot, started[0])
    assert (one.model, one.slots, one.stuck_s) == ("m:latest", None, 0)
    assert one.memory_bytes > 0
    assert started[1].pid not in [runner.pid for runner in snapshot.runners]
    assert snapshot.tokens_per_s is None
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(view(snapshot))
    assert "? tokens/s" in console.export_text()


@pytest.mark.parametrize("fault", [None, Fault.SILENT, Fault.HTML_PAGE])
def test_a_daemon_that_does_not_answer_is_seen(fault: Fault | None) -> None:
    """It is told, with what to do, and never raised."""
    with FakeDaemon(fault=fault) as daemon:
        host = daemon.host if fault else nobody_listens()
        with Observer(host, limit_s=0.2) as observer:
            snapshot = observer.look()
    assert (snapshot.version, snapshot.loaded) == (None, ())
    assert snapshot.alerts()[0].endswith(": ollama-bridge doctor")


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (replace(CALM.machine, memory_used_bytes=96), "of memory are left"),
        (replace(CALM.machine, swapped_in_bytes=1), "is being swapped"),
        (replace(CALM.machine, hottest_c=(89.0, 90.0)), "89 °C of 90 °C"),
        (replace(CALM.machine, gpus=(GPU("T4", 1.0, 1, 2, 91.0),)), "T4 has 91 °C"),
    ],
)
def test_a_machine_in_trouble_is_told(machine: Machine, words: str) -> None:
    """And a calm one is not."""
    assert CALM.alerts() == ()
    (alert,) = replace(CALM, machine=machine).alerts()
    assert words in alert


def test_readings_of_the_machine_become_alerts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Swap that grew in the last minute, and the sensor that is nearest to its limit."""
    swapped_in_bytes = iter((100, 100, 4196, 4196, 4196))
    times_s = iter((0.0, 1.0, 2.0, 61.0, 62.0))
    monkeypatch.setattr(observer, "runners", tuple)  # whoever else has some here, tells no time
    monkeypatch.setattr(
        observer,
        "time",
        SimpleNamespace(monotonic=lambda: next(times_s), perf_counter=float, time=float),
    )
    sensors = {
        "cpu": [
            SimpleNamespace(current=70.0, high=100.0, critical=None),
            SimpleNamespace(current=0.0, high=None, critical=None),
        ],
        "disk": [SimpleNamespace(current=84.0, high=None, critical=85.0)],
    }
    monkeypatch.setattr(
        observer.psutil, "swap_memory", lambda: SimpleNamespace(sin=next(swapped_in_bytes), used=7)
    )
    monkeypatch.setattr(observer.psutil, "sensors_temperatures", lambda: sensors, raising=False)
    with FakeDaemon() as daemon, Observer(daemon.host) as watching:
        (hot,) = watching.look().alerts()
        assert "84 °C of 85 °C" in hot
        sensors["disk"] = []
        for _ in range(2):
            seen = watching.look()
            (swap,) = seen.alerts()
            assert "is being swapped" in swap
            assert seen.machine.swapped_in_total_bytes == 4196
        assert watching.look().alerts() == ()


def test_gpus_are_read_from_nvidia_s_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with what it tells; none where the tool fails."""
    tool = tmp_path / "nvidia-smi"
    told = ("T4, 50, 3, 5, 91", "Old one, 0, 1, 2, N/A", "GB10, [N/A], [N/A], [Not Supported], 40")
    tool.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in told))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with FakeDaemon() as daemon, Observer(daemon.host) as observer:
        machine = observer.look().machine
        assert machine.gpus == (
            GPU("T4", 0.5, 3 * 2**20, 5 * 2**20, 91.0),
            GPU("Old one", 0.0, 2**20, 2 * 2**20, None),
            GPU("GB10", None, None, None, 40.0),
        )
        seen = replace(CALM, machine=machine)
        families = text_string_to_metric_families(exposition(seen))
        samples = {one.name: len(one.samples) for one in families}
        assert (samples["ollama_gpu_share"], samples["ollama_gpu_temperature_celsius"]) == (2, 2)
        console = Console(width=110, record=True, file=io.StringIO())
        console.print(view(seen))
        assert "GB10: ?, ? of ?, 40 °C" in console.export_text()
        tool.write_text("#!/bin/sh\nexit 9\n")
        assert observer.look().machine.gpus == ()


@pytest.mark.parametrize(
    ("loaded", "problem", "rate"),
    [(CALM.loaded, None, None), ((), "no answer", None), ((), None, 0.0)],
)
def test_what_cannot_be_seen_is_not_nought(
    loaded: tuple[Loaded, ...], problem: str | None, rate: float | None
) -> None:
    """Behind a tunnel, or in a container, models are at work on an address of this machine."""
    seen = replace(CALM, loaded=loaded, problem=problem, runners=(), waiting=2)
    assert (seen.tokens_per_s, seen.queued) == (rate, None if rate is None else 2)
    told = {one.name for one in text_string_to_metric_families(exposition(seen))}
    assert ("ollama_tokens_per_second" in told) == (rate is not None)
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(view(seen))
    assert ("? tokens/s" in console.export_text()) == (rate is None)


@pytest.mark.parametrize(
    ("until", "words"),
    [
        ("2318-03-04T10:11:12.5Z", "Forever"),
        ("2026-01-02T12:10:00+02:00", "24 hours from now"),
        ("2026-01-01T10:15:00Z", "4 minutes from now"),
    ],
)
def test_how_long_a_model_stays_is_told_as_ps_does(until: str, words: str) -> None:
    """On whatever day, and in whatever zone the daemon is."""
    now_s = datetime(2026, 1, 1, 10, 10, 30, tzinfo=UTC).timestamp()
    kept = replace(CALM, at_s=now_s, loaded=(replace(CALM.loaded[0], until=until),))
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(view(kept))
    assert words in console.export_text()


def test_people_see_everything() -> None:
    """In one view."""
    console = Console(width=110, record=True, file=io.StringIO())
    named = (replace(CALM.runners[0], model="[m]"),)
    machine = replace(CALM.machine, swapped_in_bytes=1)
    console.print(view(replace(CALM, machine=machine, runners=named)))
    text = console.export_text()
    for words in (
        "[m]",
        "12.5 tokens/s",
        "queue 3 to 5",
        "CPU 25%",
        "50%",
        "2 of 4",
        "T4",
        "! memory is being swapped",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"waiting": 0}, "queue 0 "),
        ({"waiting": 1}, "queue 0 to 1 "),  # one of the two busy slots may have it
        ({"waiting": 4, "runners": (), "loaded": ()}, "queue 4 "),  # none is loaded yet
        ({"waiting": 4, "runners": ()}, "queue 0 to 4 "),  # its runner is out of sight
        ({"waiting": 4, "runners": (Runner(1, "m", 5, 0.5),)}, "queue 0 to 4 "),
        ({"waiting": None}, "queue ? "),
    ],
)
def test_a_queue_is_told_as_far_as_it_is_known(changed: dict[str, Any], words: str) -> None:
    """From what nothing works on for certain to all that has no answer."""
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(view(replace(CALM, **changed)))
    assert words in console.export_text()


def test_a_look_at_a_daemon_that_does_not_answer_is_no_success(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is printed all the same; and a daemon that is there again at the last look is."""
    args = ["monitor", "--interval", "0.1", "--count"]
    away = CliRunner().invoke(cli.app, [*args, "1", "--json", "--host", nobody_listens()])
    assert away.exit_code == DaemonError.exit_code == 3
    (look,) = map(json.loads, away.stdout.splitlines())
    assert look["version"] is None
    assert look["problem"] in look["alerts"][0]
    with FakeDaemon() as daemon:
        seen = iter([True, True, False])  # one before the first that is shown

        def look_twice(self: Observer) -> Snapshot:
            return replace(look_once(self), problem="no answer" if next(seen) else None)

        look_once = Observer.look
        monkeypatch.setattr(Observer, "look", look_twice)
        back = CliRunner().invoke(cli.app, [*args, "2", "--host", daemon.host])
    assert (back.exit_code, back.stdout.count("no answer")) == (0, 1)


def test_the_command_gives_lines_of_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as were asked for."""
    with FakeDaemon(models={"m:latest": "d" * 64}) as daemon:
        args = ["monitor", "--host", daemon.host, "--count", "2", "--interval", "0.1"]
        done = CliRunner().invoke(cli.app, [*args, "--json", "--prometheus", "0"])
        assert done.exit_code == 0, done.output
        assert [json.loads(line)["version"] for line in done.stdout.splitlines()] == ["0.34.4"] * 2
        assert "/metrics" in done.stderr
        text = CliRunner().invoke(cli.app, args).stdout
        assert text.count("Ollama 0.34.4 at") == 2
        waits: list[float] = []
        monkeypatch.setattr(monitor, "time", SimpleNamespace(sleep=waits.append))
        CliRunner().invoke(cli.app, [*args[:-1], "60"])
        assert waits == [1.0, 60.0]  # the first look is there at once
    refused = CliRunner().invoke(cli.app, ["monitor", "--interval", "0"])
    assert isinstance(refused.exception, ConfigError)
