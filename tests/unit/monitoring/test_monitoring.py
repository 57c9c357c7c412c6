"""What is seen of a daemon and its runners, what is wrong, and how it is told."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from fakes.daemon import FakeDaemon, Fault, nobody_listens
from rich.console import Console
from typer.testing import CliRunner

from ollama_bridge import cli
from ollama_bridge.cli.monitor import view
from ollama_bridge.errors import ConfigError
from ollama_bridge.monitoring import (
    Exporter,
    Loaded,
    Machine,
    Observer,
    Runner,
    Snapshot,
    exposition,
)

DIGEST = "a" * 64
# A runner as the machine shows it: a process of that name, with a port at which it tells its slots.
RUNNER = """
import http.server, itertools, json, sys
tokens = itertools.count(10, int(sys.argv[1]))
class Slots(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        made = next(tokens)
        body = json.dumps([
            {"id": 0, "is_processing": True, "id_task": 7, "n_prompt_tokens_processed": 5,
             "prompt": "a secret", "next_token": [{"n_decoded": made}]},
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
def runner(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A process called llama-server that makes so many tokens between two looks."""
    binary = tmp_path / "llama-server"
    binary.symlink_to(Path(sys.executable).resolve())
    arguments = [str(request.param), "--port", str(free_port()), f"/models/sha256-{DIGEST}"]
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


@pytest.mark.parametrize("runner", [6], indirect=True)
def test_a_runner_s_tokens_are_counted(runner: subprocess.Popen[str]) -> None:
    """By the name of the model, with rates from the second look on; prompts are not kept."""
    with FakeDaemon(models={"m:latest": "d" * 64}) as daemon:
        daemon.shown["modelfile"] = f"FROM /models/blobs/sha256-{DIGEST}\n"
        with Observer(daemon.host) as observer:
            assert found(observer.look(), runner).tokens_per_s == 0
            time.sleep(0.05)
            snapshot = observer.look()
    one = found(snapshot, runner)
    assert (one.model, one.slots, one.busy, one.tokens) == ("m:latest", 2, 1, 16)
    assert 0 < one.tokens_per_s <= 6 / 0.05
    assert one.memory_bytes > 0
    assert snapshot.version == "0.34.4"
    assert [model.name for model in snapshot.loaded] == ["m:latest"]
    assert "secret" not in repr(snapshot) + exposition(snapshot)


@pytest.mark.parametrize("runner", [0], indirect=True)
def test_a_runner_that_gives_nothing_is_wedged(runner: subprocess.Popen[str]) -> None:
    """Busy, but neither reads nor writes tokens."""
    with FakeDaemon() as daemon, Observer(daemon.host) as observer:
        observer.look()
        time.sleep(0.05)
        snapshot = observer.look()
    assert found(snapshot, runner).stuck_s >= 0.05
    alerts = snapshot.alerts(wedge_s=0.05)
    assert any("is busy and gave nothing" in alert for alert in alerts)
    assert not any("gave nothing" in alert for alert in snapshot.alerts(wedge_s=60))


@pytest.mark.parametrize("fault", [None, Fault.SILENT, Fault.HTML_PAGE])
def test_a_daemon_that_does_not_answer_is_seen(fault: Fault | None) -> None:
    """It is told, with what to do, and never raised."""
    with FakeDaemon(fault=fault) as daemon:
        host = daemon.host if fault else nobody_listens()
        with Observer(host, limit_s=0.2) as observer:
            snapshot = observer.look()
    assert (snapshot.version, snapshot.loaded) == (None, ())
    assert snapshot.alerts()[0].endswith(": ollama-bridge doctor")


CALM = Snapshot(
    at_s=1.0,
    host="http://h",
    version="0.34.4",
    answer_s=0.5,
    problem=None,
    loaded=(Loaded('a"b\n', 10, 5, 4096, "2026-01-01T10:11:12Z"),),
    runners=(Runner(1, "m", 123_456_789, 1.5, 4, 2, 30, 12.5),),
    machine=Machine(0.25, 50, 100, 0, 0, (50.0, 90.0), (("T4", 0.5, 1, 2),)),
)


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (replace(CALM.machine, memory_used_bytes=96), "of memory are left"),
        (replace(CALM.machine, swapped_in_bytes=1), "is being swapped"),
        (replace(CALM.machine, hottest_c=(89.0, 90.0)), "89 °C of 90 °C"),
    ],
)
def test_a_machine_in_trouble_is_told(machine: Machine, words: str) -> None:
    """And a calm one is not."""
    assert CALM.alerts() == ()
    (alert,) = replace(CALM, machine=machine).alerts()
    assert words in alert


def test_prometheus_reads_every_number() -> None:
    """Names with units, labels escaped, numbers whole."""
    lines = exposition(CALM).splitlines()
    assert r'ollama_model_bytes{model="a\"b\n"} 10.0' in lines
    assert 'ollama_runner_memory_bytes{model="m",pid="1"} 123456789.0' in lines
    assert "ollama_up 1.0" in lines
    assert 'ollama_gpu_share{gpu="0 T4"} 0.5' in lines
    kinds = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(kinds) == len(set(kinds))
    samples = [line for line in lines if not line.startswith("#")]
    assert all(line.split("{")[0].split()[0] in kinds for line in samples)


def test_the_page_is_this_machine_s_alone() -> None:
    """A taken port is a clear error."""
    with Exporter(0, lambda: exposition(CALM)) as page:
        answer = httpx.get(f"http://127.0.0.1:{page.port}/metrics")
        assert answer.text == exposition(CALM)
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert httpx.get(f"http://127.0.0.1:{page.port}/").status_code == 404
        with pytest.raises(ConfigError, match=f"port {page.port}"):
            Exporter(page.port, str)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{page.port}/metrics")


def test_people_see_everything() -> None:
    """In one view."""
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(view(replace(CALM, machine=replace(CALM.machine, swapped_in_bytes=1))))
    text = console.export_text()
    for words in ("12.5 tokens/s", "CPU 25%", "50%", "2 of 4", "T4", "! memory is being swapped"):
        assert words in text


def test_the_command_gives_lines_of_json() -> None:
    """As many as were asked for."""
    with FakeDaemon(models={"m:latest": "d" * 64}) as daemon:
        args = ["monitor", "--host", daemon.host, "--count", "2", "--interval", "0.1"]
        done = CliRunner().invoke(cli.app, [*args, "--json", "--prometheus", "0"])
        assert done.exit_code == 0, done.output
        assert [json.loads(line)["version"] for line in done.stdout.splitlines()] == ["0.34.4"] * 2
        assert "/metrics" in done.stderr
        text = CliRunner().invoke(cli.app, args).stdout
        assert text.count("Ollama 0.34.4 at") == 2
    refused = CliRunner().invoke(cli.app, ["monitor", "--interval", "0"])
    assert isinstance(refused.exception, ConfigError)
