"""Clocks that jump: limits go by a clock that is not set, and a machine that slept is told."""

from __future__ import annotations

import ast
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes.daemon import FakeDaemon

import ollama_bridge.client
from ollama_bridge.client import Answered, Client, Text, Timeouts
from ollama_bridge.client.jobs.batch import ask_all
from ollama_bridge.client.wire import clock
from ollama_bridge.client.wire.retries import NO_RETRIES
from ollama_bridge.errors import DaemonTimeoutError

SOURCES = sorted(Path(ollama_bridge.client.__path__[0]).glob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_limit_goes_by_the_wall_clock(path: Path) -> None:
    """Somebody may set it at any time."""
    names = {
        node.attr
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
    }
    assert not names & {"time", "time_ns", "now", "utcnow", "today"}


@pytest.mark.parametrize("jump_s", [1e6, -1e6])
def test_the_wall_clock_may_jump(
    fake_daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    """Forwards and backwards, in the middle of an answer and of a batch."""
    real = time.time
    with Client(fake_daemon.host, timeouts=Timeouts(total_s=20.0)) as client:
        stream = client.stream("m", "hi")
        assert next(stream) == Text("Hel")
        monkeypatch.setattr(time, "time", lambda: real() + jump_s)
        assert len(list(stream)) == 3
        monkeypatch.undo()
    requests = [{"model": "m", "prompt": text} for text in "abc"]
    events = ask_all(requests, tmp_path / "log", hosts=[fake_daemon.host], concurrency=1)
    next(events)
    monkeypatch.setattr(time, "time", lambda: real() + jump_s)
    assert all(isinstance(one, Answered) and one.reply for one in events)


def test_a_machine_that_slept_in_mid_answer_is_told(
    fake_daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the other clock jumps as well: a limit ran out, and what had come is there."""
    limits = Timeouts(total_s=20.0)
    with Client(fake_daemon.host, timeouts=limits, retries=NO_RETRIES) as client:
        stream = client.stream("m", "hi")
        assert next(stream) == Text("Hel")
        later = SimpleNamespace(monotonic=lambda: time.monotonic() + 1e6)
        monkeypatch.setattr(clock, "time", later)
        with pytest.raises(DaemonTimeoutError) as caught:
            list(stream)
        assert caught.value.phase == "total"
        assert caught.value.partial_text.startswith("Hel")
        monkeypatch.undo()
        assert client.chat("m", "hi").text == "Hello!"


@pytest.mark.parametrize(("hours", "is_too_long"), [(1.5, False), (25.0, True)])
def test_a_download_may_take_a_day(
    fake_daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, hours: float, is_too_long: bool
) -> None:
    """For as long as the daemon tells that it goes on."""
    now_s = time.monotonic()
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: now_s))

    def later(_: str) -> None:
        nonlocal now_s
        now_s += hours * 3600

    with Client(fake_daemon.host) as client:
        if not is_too_long:
            client.pull("m", on_status=later)
            return
        with pytest.raises(DaemonTimeoutError, match="within 86400 s"):
            client.pull("m", on_status=later)
