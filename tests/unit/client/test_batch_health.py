"""A daemon that failed gets no row before it answered one token; one that is silent is left out."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes.daemon import Asked, FakeDaemon, Fault, Turn

from ollama_bridge.client import Timeouts, calls, model_check
from ollama_bridge.client.jobs import batch, coordinator, health
from ollama_bridge.client.jobs.batch import ask_all
from ollama_bridge.client.jobs.batch_log import BatchLog, Outcome
from ollama_bridge.client.jobs.jobs import Answered, Away, BatchEvent, BatchLimits, GivenUp, Job
from ollama_bridge.client.jobs.runner import Asks, daemons, question, run_batch, run_batch_async
from ollama_bridge.client.openai_api import chat_completion
from ollama_bridge.client.requests import Asking
from ollama_bridge.errors import (
    DaemonTimeoutError,
    DaemonUnreachableError,
    ModelNotFoundError,
    RunnerCrashedError,
)

# Far beyond what a test waits for: whatever ends sooner was ended by the batch.
PATIENT = Timeouts(
    connect_s=60.0, load_s=60.0, first_token_s=60.0, between_tokens_s=60.0, total_s=120.0
)
ONE = BatchLimits(in_flight=1, pause_s=0.001)
CRASH = Turn(fault=Fault.ERROR_LINE, pieces=[])
SILENCE = Turn(fault=Fault.SILENT)


def is_canary(asked: Asked) -> bool:
    return "prompt" in asked.json


def echo(asked: Asked) -> Turn:
    return Turn() if is_canary(asked) else Turn(pieces=[f"to {text_of(asked)}"])


def text_of(asked: Asked) -> str:
    return "canary" if is_canary(asked) else str(asked.json["messages"][-1]["content"])


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with FakeDaemon(script=echo) as running:
        yield running


@pytest.fixture
def log(tmp_path: Path) -> Iterator[BatchLog]:
    with BatchLog(tmp_path / "log.jsonl") as opened:
        yield opened


def run(texts: Sequence[str], log: BatchLog, *hosts: str, limits: BatchLimits) -> list[BatchEvent]:
    jobs = [chat(text) for text in texts]
    return list(
        run_batch(jobs, daemons({host: {} for host in hosts}, timeouts=PATIENT), log, limits)
    )


def chat(text: str) -> Job[Asks]:
    return question(calls.chat("m", text, Asking(), system=None, tools=None))


def asked_in_turn(daemon: FakeDaemon) -> list[str]:
    asks = [one for one in daemon.asked if one.path in ("/api/chat", "/api/generate")]
    return [text_of(one) for one in asks]


def test_no_row_before_the_canary_is_answered(daemon: FakeDaemon, log: BatchLog) -> None:
    """The daemon crashes at a row and at two canaries: the row is tried again after the third."""
    failing = iter([CRASH] * 3)
    daemon.script = lambda asked: next(failing, None) or echo(asked)
    found = run(["a", "b"], log, daemon.host, limits=ONE)
    assert asked_in_turn(daemon) == ["a", "canary", "canary", "canary", "b", "a"]
    outcomes = [one for one in found if isinstance(one, Outcome)]
    assert sorted(one.attempts for one in outcomes) == [1, 2]
    assert all(one.error is None for one in outcomes)


def test_a_canary_is_one_token_of_the_same_model(daemon: FakeDaemon) -> None:
    """With the options of the question, so that nothing is loaded anew."""
    asking = Asking(options={"num_ctx": 512, "seed": 1}, keep_alive="10m", format="json")
    call = calls.chat("m", "hi", asking, system="Be brief.", tools=None)
    small = health.canary(call)
    assert small is not None
    assert small.path == "/api/generate"
    assert small.json == {
        "model": "m",
        "keep_alive": "10m",
        "prompt": "1",
        "raw": True,
        "think": False,
        "truncate": False,
        "shift": False,
        "options": {"num_ctx": 512, "seed": 1, "num_predict": 1, "stop": []},
    }
    other = chat_completion("m", [], max_tokens=1, temperature=0, seed=0)
    assert health.canary(other) is None


@pytest.mark.parametrize("begins", [0, 3])
def test_a_wedged_daemon_is_left_out(daemon: FakeDaemon, log: BatchLog, begins: int) -> None:
    """It accepts and is silent: its rows are taken away and answered elsewhere."""
    limits = BatchLimits(in_flight=2, pause_s=0.001, quiet_s=0.2, canary_s=0.2, outage_s=0.1)
    texts = [str(number) for number in range(12)]
    told = threading.Event()

    def wedges(asked: Asked) -> Turn:
        if len(wedged.questions) <= begins:
            return echo(asked)
        wedged.fault = Fault.SILENT
        return SILENCE

    def slow(asked: Asked) -> Turn:
        if len(daemon.questions) > 4:
            told.wait(10)
        return echo(asked)

    daemon.script = slow
    jobs = [chat(text) for text in texts]
    found = []
    with FakeDaemon(script=wedges) as wedged:
        hangs, works = daemons({wedged.host: {}, daemon.host: {}}, timeouts=PATIENT)
        endpoints = [hangs, replace(works, check=None)]  # however busy this machine is
        for event in run_batch(jobs, endpoints, log, limits):
            found.append(event)
            if isinstance(event, GivenUp):
                told.set()
    given_up = [one for one in found if isinstance(one, GivenUp)]
    assert [one.name for one in given_up] == [wedged.host]
    assert isinstance(given_up[0].error, DaemonTimeoutError)
    outcomes = [one for one in found if isinstance(one, Outcome)]
    assert len({one.key for one in outcomes}) == len(outcomes) == 12
    assert all(one.error is None for one in outcomes)


def test_a_wedged_daemon_alone_ends_the_batch(daemon: FakeDaemon, log: BatchLog) -> None:
    """What was answered is kept, and no row is set aside."""
    limits = BatchLimits(in_flight=1, pause_s=0.001, quiet_s=0.5, canary_s=0.1, outage_s=0.1)

    def wedges(asked: Asked) -> Turn:
        if len(daemon.questions) < 3:
            return echo(asked)
        daemon.fault = Fault.SILENT
        return SILENCE

    daemon.script = wedges
    with pytest.raises(DaemonTimeoutError, match=r"not even one token within [\d.]+ s"):
        run("abcd", log, daemon.host, limits=limits)
    assert len(log) == 2


def test_who_goes_away_is_told_before_it_is_waited_for(log: BatchLog) -> None:
    """Once, with how long; a minute of silence looks like a hang."""
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(FakeDaemon())

        def stays_away(asked: Asked) -> Turn:
            if len(running.questions) == 1:
                return echo(asked)
            running.closing.wait(10)
            return Turn(fault=Fault.HANG_UP)

        running.script = stays_away
        limits = BatchLimits(in_flight=1, pause_s=0.001, outage_s=0.5)
        jobs = [chat(text) for text in "abc"]
        events = run_batch(jobs, daemons({running.host: {}}, timeouts=PATIENT), log, limits)
        assert isinstance(next(events), Outcome)
        stack.close()
        away = next(events)
        assert isinstance(away, Away)
        assert "it is waited for, up to 0.5 s (ollama-bridge daemon start" in away.text
        with pytest.raises(DaemonUnreachableError):
            next(events)  # not told a second time
    assert len(log) == 1


def test_a_wedged_runner_is_found_by_the_canary(daemon: FakeDaemon, log: BatchLog) -> None:
    """The daemon answers what needs no model; after a row's own limit one token has a short one."""
    daemon.script = lambda asked: SILENCE
    soon = Timeouts(load_s=0.1, first_token_s=0.1)
    limits = BatchLimits(in_flight=1, pause_s=0.001, canary_s=0.4, outage_s=0.1)
    with pytest.raises(DaemonTimeoutError):
        list(run_batch([chat("a")], daemons({daemon.host: {}}, timeouts=soon), log, limits))
    assert asked_in_turn(daemon) == ["a", "canary"]


@pytest.mark.parametrize("waits_for", ["row", "canary", "check"])
def test_nothing_is_left_over(daemon: FakeDaemon, log: BatchLog, waits_for: str) -> None:
    """Whoever stops reading while a row, a canary or a check is under way leaves no task."""
    asked_for = threading.Event()

    def silent(asked: Asked) -> Turn:
        if not is_canary(asked) and text_of(asked) == "a":
            return echo(asked)
        if waits_for == "canary" and not is_canary(asked):
            return CRASH
        asked_for.set()
        daemon.fault = Fault.SILENT
        return SILENCE

    async def read() -> int:
        limits = BatchLimits(in_flight=1, pause_s=0.001, quiet_s=0.05, canary_s=30.0)
        if waits_for != "check":
            limits = replace(limits, quiet_s=30.0)
        endpoints = daemons({daemon.host: {}}, timeouts=PATIENT)
        jobs = [chat("a"), chat("b")]
        async with aclosing(run_batch_async(jobs, endpoints, log, limits)) as events:
            await anext(events)
            reading = asyncio.ensure_future(anext(events))
            await asyncio.to_thread(asked_for.wait, 10)
            await asyncio.sleep(0.1)
            reading.cancel()
            await asyncio.wait([reading])
        return len(asyncio.all_tasks())

    daemon.script = silent
    assert asyncio.run(read()) == 1
    assert len(log) == 1


def test_a_long_answer_is_no_silence(daemon: FakeDaemon, log: BatchLog) -> None:
    """A daemon that says it is there keeps its row, which is asked once."""
    checks = 0
    checked_twice = threading.Event()

    async def check() -> None:
        nonlocal checks
        checks += 1
        if checks == 2:
            checked_twice.set()

    def slow(asked: Asked) -> Turn:
        checked_twice.wait(10)
        return echo(asked)

    daemon.script = slow
    (endpoint,) = daemons({daemon.host: {}}, timeouts=PATIENT)
    limits = BatchLimits(in_flight=1, quiet_s=0.1)
    list(run_batch([chat("a")], [replace(endpoint, check=check)], log, limits))
    assert asked_in_turn(daemon) == ["a"]
    assert checks >= 2


def test_the_last_rows_are_not_blamed_for_a_broken_daemon(
    daemon: FakeDaemon, log: BatchLog
) -> None:
    """Nothing is left that could show whose fault it was: one token does."""
    daemon.script = lambda asked: CRASH
    limits = BatchLimits(in_flight=1, pause_s=0.001, attempts=1)
    with pytest.raises(RunnerCrashedError):
        run(["a"], log, daemon.host, limits=limits)
    assert len(log) == 0
    daemon.script = lambda asked: Turn() if is_canary(asked) else CRASH
    run(["a"], log, daemon.host, limits=limits)
    assert len(log) == 1


def prompts(*texts: str) -> list[dict[str, Any]]:
    return [{"model": "m", "messages": text} for text in texts]


def test_who_is_wedged_from_the_start_is_left_out(
    daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And told; the others answer everything."""
    monkeypatch.setattr(model_check, "SOON", Timeouts(between_tokens_s=0.5))
    with FakeDaemon(fault=Fault.SILENT) as wedged:
        hosts = [wedged.host, daemon.host]
        found = list(ask_all(prompts("a", "b"), tmp_path / "log", hosts=hosts))
        assert not wedged.questions
        with pytest.raises(DaemonTimeoutError):
            list(ask_all(prompts("c"), tmp_path / "log", hosts=[wedged.host]))
    told = [one for one in found if isinstance(one, GivenUp)]
    assert [one.name for one in told] == [f"http://{wedged.host}"]
    answered = [one.reply.text for one in found if isinstance(one, Answered) and one.reply]
    assert sorted(answered) == ["to a", "to b"]


def test_a_daemon_that_comes_back_with_another_model_gets_nothing(
    daemon: FakeDaemon, tmp_path: Path
) -> None:
    """Its answers would stand under the name of the one before."""

    def replaced(asked: Asked) -> Turn:
        if len(daemon.questions) == 2:
            daemon.models["m:latest"] = "e" * 64
            return CRASH
        return echo(asked)

    daemon.script = replaced
    events = ask_all(prompts("a", "b", "c"), tmp_path / "log", hosts=[daemon.host], concurrency=1)
    with pytest.raises(ModelNotFoundError, match="is no longer the model that it was"):
        list(events)
    assert asked_in_turn(daemon) == ["a", "b"]


def test_a_proxy_that_waits_for_its_daemon_is_waited_for(daemon: FakeDaemon, log: BatchLog) -> None:
    """However often it says so within an outage's time: a canary takes no row along."""
    pages = iter([Turn(refusal=(502, "bad gateway"))] * 9)
    daemon.script = lambda asked: next(pages, None) or echo(asked)
    limits = BatchLimits(in_flight=1, pause_s=0.0001, outage_s=30.0)
    [outcome] = run(["a"], log, daemon.host, limits=limits)
    assert asked_in_turn(daemon) == ["a", *["canary"] * 9, "a"]
    assert isinstance(outcome, Outcome)
    assert outcome.attempts == 2


def test_a_model_that_is_replaced_under_a_row_is_noticed(
    daemon: FakeDaemon, tmp_path: Path
) -> None:
    """While an answer takes long: it is not kept, since it may be the new model's."""

    def replaced(asked: Asked) -> Turn:
        daemon.models["m:latest"] = "e" * 64
        daemon.closing.wait(30.0)
        return echo(asked)

    daemon.script = replaced
    plan = batch._Plan(prompts("a"), [daemon.host], 1, 3, None)
    limits = BatchLimits(in_flight=1, quiet_s=0.2)
    with BatchLog(tmp_path / "log") as log:
        plan.go_on(log)
        with pytest.raises(ModelNotFoundError, match="is no longer the model that it was"):
            list(run_batch(plan.jobs, plan.endpoints(PATIENT), log, limits))
        assert len(log) == 0


@pytest.fixture
def row_s(monkeypatch: pytest.MonkeyPatch, daemon: FakeDaemon) -> float:
    """By the batch's clock every request takes so long."""
    seconds = 10.0
    clock = SimpleNamespace(monotonic=lambda: seconds * len(daemon.asked))
    monkeypatch.setattr(coordinator, "time", clock)
    return seconds


@pytest.mark.parametrize("rows", [4, 100])
def test_a_model_that_is_replaced_without_a_word_is_noticed(
    daemon: FakeDaemon, tmp_path: Path, row_s: float, rows: int
) -> None:
    """Though every row is answered, and soon: in the middle, or at the end at the latest."""

    def replaced(asked: Asked) -> Turn:
        if len(daemon.questions) == 3:
            daemon.models["m:latest"] = "e" * 64
        return echo(asked)

    daemon.script = replaced
    plan = batch._Plan(prompts(*map(str, range(rows))), [daemon.host], 1, 3, None)
    limits = BatchLimits(in_flight=1, quiet_s=5 * row_s)
    with BatchLog(tmp_path / "log") as log:
        plan.go_on(log)
        with pytest.raises(ModelNotFoundError, match="is no longer the model that it was"):
            list(run_batch(plan.jobs, plan.endpoints(PATIENT), log, limits))
        assert 3 <= len(log) < 100


def test_a_check_that_fails_takes_no_row_from_a_daemon_that_answers(
    daemon: FakeDaemon, log: BatchLog, row_s: float
) -> None:
    """One in which something is settled is not silent."""
    checks = 0

    async def fails() -> None:
        nonlocal checks
        checks += 1
        raise DaemonUnreachableError("too many connections")

    [works] = daemons({daemon.host: {}}, timeouts=PATIENT)
    texts = [str(number) for number in range(30)]
    limits = BatchLimits(in_flight=1, quiet_s=5 * row_s)
    list(run_batch([chat(text) for text in texts], [replace(works, check=fails)], log, limits))
    assert checks > 2
    assert asked_in_turn(daemon) == texts


def test_a_refused_canary_is_an_answer(daemon: FakeDaemon) -> None:
    """A model that takes no raw prompts says so: it is there."""
    daemon.script = lambda asked: Turn(refusal=(400, "no raw prompts"))

    async def ask(limit_s: float) -> None:
        endpoint = daemons({daemon.host: {}})[0]
        async with endpoint.open() as client:
            call = health.canary(calls.chat("m", "a", Asking(), system=None, tools=None))
            assert call is not None
            await health.within(limit_s, client.ask(call), name="x")

    asyncio.run(ask(10.0))
    daemon.script = lambda asked: Turn(fault=Fault.HANG_UP)
    with pytest.raises(DaemonUnreachableError):
        asyncio.run(ask(10.0))
