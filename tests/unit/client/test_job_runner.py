"""A batch settles every job exactly once, whatever happens on the way."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.daemon import Asked, FakeDaemon, Fault, Turn, nobody_listens
from fakes.disks import small_disk

from ollama_bridge.client import AsyncClient, Timeouts, calls
from ollama_bridge.client.jobs.batch_log import BatchLog
from ollama_bridge.client.jobs.jobs import BatchEvent, BatchLimits, GivenUp, Job
from ollama_bridge.client.jobs.records import reply_from_record
from ollama_bridge.client.jobs.runner import daemons, question, run_batch, run_batch_async
from ollama_bridge.client.requests import Asking
from ollama_bridge.errors import (
    ArtifactError,
    DaemonUnreachableError,
    DiskFullError,
    ModelNotFoundError,
    OllamaBridgeError,
    RequestRejectedError,
    RunnerCrashedError,
)

HASTY = BatchLimits(pause_s=0.001)
PATIENT = Timeouts(
    connect_s=10.0, load_s=10.0, first_token_s=10.0, between_tokens_s=10.0, total_s=20.0
)


def ask(text: str, *, identity: str = "d") -> Job[AsyncClient]:
    return question(calls.chat("m", text, Asking(), system=None, tools=None), identity=identity)


def text_of(asked: Asked) -> str:
    if "prompt" in asked.json:
        return "canary"
    return str(asked.json["messages"][-1]["content"])


def echo(asked: Asked) -> Turn:
    return Turn(pieces=[f"to {text_of(asked)}"])


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with FakeDaemon(script=echo) as running:
        yield running


@pytest.fixture
def log(tmp_path: Path) -> Iterator[BatchLog]:
    with BatchLog(tmp_path / "log.jsonl") as opened:
        yield opened


def run(
    texts: list[str], log: BatchLog, *hosts: str, limits: BatchLimits = HASTY
) -> list[BatchEvent]:
    endpoints = daemons({host: {} for host in hosts}, timeouts=PATIENT)
    return list(run_batch([ask(text) for text in texts], endpoints, log, limits))


def answers(log: BatchLog, texts: list[str]) -> list[str | None]:
    found = [log.read(ask(text).key) for text in texts]
    return [reply_from_record(one.value).text if one.value else one.error for one in found]


def test_every_question_is_answered_once(daemon: FakeDaemon, log: BatchLog) -> None:
    """Order-free, bounded, equal questions asked once; all of it is in the log."""
    texts = [f"question {number}" for number in range(40)]
    running, most = 0, 0
    lock, full = threading.Lock(), threading.Event()

    def count(asked: Asked) -> Turn:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running == 3:
                full.set()
        full.wait(10)  # however slowly the others come
        daemon.closing.wait(0.002)
        with lock:
            running -= 1
        return echo(asked)

    daemon.script = count
    events = run([*texts, texts[0]], log, daemon.host, limits=BatchLimits(in_flight=3))
    assert len(events) == len(daemon.questions) == 40
    assert answers(log, texts) == [f"to {text}" for text in texts]
    assert most == 3


def test_what_is_settled_is_not_asked_again(daemon: FakeDaemon, tmp_path: Path) -> None:
    """The same batch costs nothing; another model under the name, and new questions, do."""
    with BatchLog(tmp_path / "log") as log:
        run(["a", "b"], log, daemon.host)
    with BatchLog(tmp_path / "log") as log:
        assert run(["a", "b", "c"], log, daemon.host) != []
        assert answers(log, ["a", "b", "c"]) == ["to a", "to b", "to c"]
    assert ask("a").key != ask("a", identity="other").key
    assert len(daemon.questions) == 3


def test_two_daemons_share_the_work(daemon: FakeDaemon, log: BatchLog) -> None:
    """Both are asked, and none for what the other was."""
    with FakeDaemon(script=echo) as other:
        run([str(number) for number in range(30)], log, daemon.host, other.host)
        assert daemon.questions
        assert other.questions
        assert len(daemon.questions) + len(other.questions) == 30


@pytest.mark.parametrize(
    "fault",
    [Fault.HANG_UP, Fault.BUSY, Fault.RESET, Fault.ERROR_LINE, Fault.NO_DONE, Fault.BAD_JSON],
)
def test_a_fault_that_passes_costs_nothing(daemon: FakeDaemon, log: BatchLog, fault: Fault) -> None:
    """Every question fails once, each in its first attempt; all are answered."""
    seen: Counter[str] = Counter()

    def fails_once(asked: Asked) -> Turn:
        seen[text_of(asked)] += 1
        return echo(asked) if seen[text_of(asked)] > 1 else Turn(fault=fault)

    daemon.script = fails_once
    texts = ["a", "b", "c"]
    run(texts, log, daemon.host)
    assert answers(log, texts) == ["to a", "to b", "to c"]


def test_a_poison_row_is_set_aside_with_its_error(daemon: FakeDaemon, log: BatchLog) -> None:
    """It crashes the runner whenever it is asked; the rows in flight beside it come to no harm."""
    running: set[str] = set()
    lock = threading.Lock()

    def crashes(asked: Asked) -> Turn:
        text = text_of(asked)
        with lock:
            running.add(text)
        daemon.closing.wait(0.01)
        with lock:
            victims = "poison" in running
            running.discard(text)
        return Turn(fault=Fault.ERROR_LINE) if victims else echo(asked)

    daemon.script = crashes
    texts = ["a", "b", "poison", "c", "d"]
    run(texts, log, daemon.host, limits=BatchLimits(in_flight=3, pause_s=0.001))
    assert [text for text in texts if log.read(ask(text).key).value] == ["a", "b", "c", "d"]
    failed = log.read(ask("poison").key)
    assert str(failed.error).startswith("RunnerCrashedError: the daemon failed while answering")
    assert failed.attempts == 3


def test_a_refused_row_is_asked_once(daemon: FakeDaemon, log: BatchLog) -> None:
    """What a daemon refuses with a 400 it would refuse again."""

    def refuses(asked: Asked) -> Turn:
        return Turn(refusal=(400, "odd row")) if text_of(asked) == "odd" else echo(asked)

    daemon.script = refuses
    run(["odd", "fine"], log, daemon.host)
    assert answers(log, ["odd", "fine"]) == [
        "RequestRejectedError: the daemon answered 400: odd row",
        "to fine",
    ]
    assert len(daemon.questions) == 2


@pytest.mark.parametrize(
    ("turn", "error"),
    [
        (Turn(refusal=(400, "bad")), RequestRejectedError),
        (Turn(refusal=(500, "out of memory")), RequestRejectedError),
        (Turn(fault=Fault.ERROR_LINE), RunnerCrashedError),
        (Turn(fault=Fault.HANG_UP), DaemonUnreachableError),
    ],
)
def test_a_daemon_that_fails_at_everything_costs_no_row(
    daemon: FakeDaemon, log: BatchLog, turn: Turn, error: type[OllamaBridgeError]
) -> None:
    """It is given up after five failures, and nothing is set aside."""
    daemon.script = lambda asked: turn
    texts = [str(number) for number in range(50)]
    with pytest.raises(error):
        run(texts, log, daemon.host, limits=BatchLimits(in_flight=1, pause_s=0.001))
    assert len(daemon.questions) == 5
    assert len(log) == 0
    daemon.script = echo
    run(texts, log, daemon.host)
    assert len(log) == 50


@pytest.mark.parametrize("in_flight", [1, None])
@pytest.mark.parametrize("where", ["first", "last"])
@pytest.mark.parametrize("bad", [Turn(refusal=(400, "odd row")), Turn(fault=Fault.ERROR_LINE)])
def test_bad_rows_side_by_side_stop_nothing(
    daemon: FakeDaemon,
    log: BatchLog,
    monkeypatch: pytest.MonkeyPatch,
    bad: Turn,
    where: str,
    in_flight: int | None,
) -> None:
    """More than may fail in a row: the rows that the daemon does answer show who is to blame."""
    monkeypatch.setattr(random, "randrange", lambda count: count - 1)
    good = [f"good {number}" for number in range(6)]
    odd = [f"odd {number}" for number in range(9)]
    daemon.script = lambda asked: bad if text_of(asked).startswith("odd") else echo(asked)
    texts = [*odd, *good] if where == "first" else [*good, *odd]
    limits = BatchLimits(in_flight=in_flight, pause_s=0.0001, attempts=2)
    run(texts, log, daemon.host, limits=limits)
    assert [text for text in texts if log.read(ask(text).key).value] == good


def test_bad_rows_that_are_left_over_are_settled(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Of a batch that was killed: a row of its that was answered is asked once more."""
    odd = [f"odd {number}" for number in range(7)]
    limits = BatchLimits(in_flight=1, pause_s=0.0001)
    with BatchLog(tmp_path / "log") as log:
        run(["good"], log, daemon.host)
        refusal = Turn(refusal=(400, "odd row"))
        daemon.script = lambda asked: refusal if text_of(asked).startswith("odd") else echo(asked)
        run(["good", *odd], log, daemon.host, limits=limits)
        assert len(log) == 8
    asked = Counter(text_of(one) for one in daemon.asked if one.path == "/api/chat")
    assert asked == {"good": 2} | dict.fromkeys(odd, 1)


def test_a_daemon_that_answers_nothing_any_more_costs_no_row(
    daemon: FakeDaemon, log: BatchLog
) -> None:
    """It refuses what it had answered, too."""
    refusal = Turn(refusal=(400, "no more"))
    daemon.script = lambda asked: echo(asked) if len(daemon.questions) <= 3 else refusal
    texts = [str(number) for number in range(20)]
    with pytest.raises(RequestRejectedError, match="no more"):
        run(texts, log, daemon.host, limits=BatchLimits(in_flight=1, pause_s=0.0001))
    assert len(log) == 3


def test_the_others_do_the_work_of_a_broken_daemon(daemon: FakeDaemon, log: BatchLog) -> None:
    """What failed there is asked again elsewhere, and that it was given up is told."""
    texts = [str(number) for number in range(20)]
    told = threading.Event()

    def slow(asked: Asked) -> Turn:
        if len(daemon.questions) > 5:
            told.wait(10)
        return echo(asked)

    daemon.script = slow
    given_up = set()
    with FakeDaemon(script=lambda asked: Turn(refusal=(500, "no memory"))) as broken:
        endpoints = daemons(
            {broken.host: {}, daemon.host: {}, nobody_listens(): {}}, timeouts=PATIENT
        )
        for event in run_batch([ask(text) for text in texts], endpoints, log, HASTY):
            if isinstance(event, GivenUp):
                given_up.add(event.name)
            if broken.host in given_up:
                told.set()
    assert given_up == {endpoints[0].name, endpoints[2].name}
    assert answers(log, texts) == [f"to {text}" for text in texts]


def test_nobody_there_is_told_at_once(log: BatchLog) -> None:
    """A daemon that never answered is not waited for."""
    with pytest.raises(DaemonUnreachableError, match="no daemon answers"):
        run(["a"], log, nobody_listens(), limits=BatchLimits(pause_s=60.0))


def test_a_missing_model_stops_the_batch(daemon: FakeDaemon, log: BatchLog) -> None:
    """Removed in the middle of a batch: what was answered is kept."""

    def removed_after_two(asked: Asked) -> Turn:
        if len(daemon.questions) >= 2:
            daemon.models.clear()
        return echo(asked)

    daemon.script = removed_after_two
    with pytest.raises(ModelNotFoundError):
        run(list("abcdef"), log, daemon.host, limits=BatchLimits(in_flight=1))
    assert len(log) == 1


def goes_away_after(daemon: FakeDaemon, answers: int) -> None:
    """Let it answer so many questions and keep all others waiting until it is gone."""

    def script(asked: Asked) -> Turn:
        if len(daemon.questions) <= answers:
            return echo(asked)
        daemon.closing.wait()
        return Turn(fault=Fault.HANG_UP)

    daemon.script = script


def test_a_restarted_daemon_is_waited_for(log: BatchLog) -> None:
    """It goes away in mid-batch and comes back at the same address."""
    texts = [str(number) for number in range(12)]
    with FakeDaemon() as first:
        goes_away_after(first, answers=4)
        port = int(first.host.rsplit(":", 1)[1])
        endpoints = daemons({first.host: {}}, timeouts=PATIENT)
        events = run_batch([ask(text) for text in texts], endpoints, log, HASTY)
        next(events)
    threading.Event().wait(0.05)
    with FakeDaemon(script=echo, port=port) as second:
        list(events)
        assert second.questions
    assert answers(log, texts) == [f"to {text}" for text in texts]


def test_an_outage_that_does_not_end_is_an_error(log: BatchLog) -> None:
    """After its limit; what was answered is kept."""
    with FakeDaemon() as daemon:
        goes_away_after(daemon, answers=4)
        endpoints = daemons({daemon.host: {}}, timeouts=PATIENT)
        limits = BatchLimits(in_flight=1, outage_s=0.05, pause_s=0.001)
        jobs = [ask(str(number)) for number in range(200)]
        events = run_batch(jobs, endpoints, log, limits)
        next(events)
    with pytest.raises(DaemonUnreachableError):
        list(events)
    assert 1 <= len(log) <= 4


def test_closing_cancels_what_is_in_flight(daemon: FakeDaemon, log: BatchLog) -> None:
    """A batch that nobody reads any more ends, though the daemon is silent."""
    daemon.script = lambda asked: Turn(fault=Fault.SILENT) if text_of(asked) != "a" else echo(asked)
    events = run_batch(
        [ask("a"), ask("b")],
        daemons({daemon.host: {}}, timeouts=PATIENT),
        log,
        BatchLimits(in_flight=1),
    )
    next(events)
    events.close()
    assert [thread.name for thread in threading.enumerate() if thread.name == "batch"] == []
    assert len(log) == 1


def test_it_works_inside_a_running_loop(daemon: FakeDaemon, log: BatchLog) -> None:
    """Blocking, in a notebook; and without blocking."""

    async def notebook() -> None:
        run(["a"], log, daemon.host)
        endpoints = daemons({daemon.host: {}}, timeouts=PATIENT)
        events = [event async for event in run_batch_async([ask("b")], endpoints, log, HASTY)]
        assert len(events) == 1

    asyncio.run(notebook())
    assert answers(log, ["a", "b"]) == ["to a", "to b"]


def test_a_full_disk_stops_the_batch(
    daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was committed is kept; the rest is asked by the next run."""
    with BatchLog(tmp_path / "log") as log:
        run(["a"], log, daemon.host)

        def no_room(handle: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", no_room)
            with pytest.raises(DiskFullError):
                run(["b", "c"], log, daemon.host)
    with BatchLog(tmp_path / "log") as log:
        assert len(log) == 1
        run(["b", "c"], log, daemon.host)
        assert len(log) == 3


def test_a_disk_that_is_really_full(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Half a record is taken back; with room again the batch goes on."""
    daemon.script = lambda asked: Turn(pieces=[text_of(asked) * 8000])
    with small_disk(tmp_path / "disk", size_kib=160) as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(120 * 1024))
        with BatchLog(disk / "log") as log:
            with pytest.raises(DiskFullError) as caught:
                run(list("abcdefgh"), log, daemon.host)
            assert "move the log" in str(caught.value.hint)  # no --out leads elsewhere
            assert 0 < len(log) < 8
        ballast.unlink()
        with BatchLog(disk / "log") as log:
            assert 0 < len(log) < 8
            run(list("abcdefgh"), log, daemon.host)
            assert answers(log, list("abcdefgh")) == [letter * 8000 for letter in "abcdefgh"]


@pytest.mark.parametrize("how", ["removed", "broken"])
def test_a_log_that_is_lost_stops_the_batch(
    daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Answers that no file would have afterwards are not counted."""
    path = tmp_path / "log"

    def broken(handle: int) -> None:
        raise OSError(5, "Input/output error")

    with BatchLog(path) as log:
        run(["a"], log, daemon.host)
        if how == "removed":
            path.unlink()
        else:
            monkeypatch.setattr(os, "fsync", broken)
        words = "was removed" if how == "removed" else "cannot be written: Input/output error"
        with pytest.raises(ArtifactError, match=words):
            run(["b", "c"], log, daemon.host)
        assert len(log) == 1


HOLDS = """
import sys
from pathlib import Path
from ollama_bridge.client.jobs.batch_log import BatchLog

with BatchLog(Path(sys.argv[1])):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_one_log_has_one_writer(tmp_path: Path) -> None:
    """Another process is refused for as long, and let in once this one is dead."""
    path = tmp_path / "log"
    command = [sys.executable, "-c", HOLDS, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(ArtifactError, match="another process"):
            BatchLog(path)
        other.kill()
    with BatchLog(path), pytest.raises(ArtifactError, match="another process"):
        BatchLog(path)


def test_a_bug_is_not_a_poison_row(daemon: FakeDaemon, log: BatchLog) -> None:
    """An exception that is not ours ends the batch as it is."""

    async def broken(client: AsyncClient) -> dict[str, Any]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(run_batch([Job("k", broken)], daemons({daemon.host: {}}), log, HASTY))


KILLED = """
import sys
from pathlib import Path
from ollama_bridge.client import calls
from ollama_bridge.client.jobs.runner import daemons, question, run_batch
from ollama_bridge.client.jobs.batch_log import BatchLog
from ollama_bridge.client.requests import Asking

def ask(text):
    return question(calls.chat("m", text, Asking(), system=None, tools=None), identity="d")

with BatchLog(Path(sys.argv[1])) as log:
    for event in run_batch([ask(str(n)) for n in range(60)], daemons({sys.argv[2]: {}}), log):
        print(event.key, flush=True)
"""


@pytest.mark.slow
def test_killed_again_and_again_it_settles_every_job_once(
    daemon: FakeDaemon, tmp_path: Path
) -> None:
    """kill -9 of the batch at twenty places: every row is in the log, and once."""
    path = tmp_path / "log"
    committed: list[str] = []

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", KILLED, str(path), daemon.host],
            stdout=subprocess.PIPE,
            text=True,
        )

    for _ in range(20):
        with start() as process:
            assert process.stdout is not None
            committed += [process.stdout.readline().strip() for _ in range(2)]
            process.send_signal(signal.SIGKILL)
    with start() as process:
        process.communicate()
        assert process.returncode == 0
    with BatchLog(path) as log:
        assert len(log) == 60
        assert all(key in log for key in committed)
    lines = path.read_text().splitlines()
    assert len(lines) == 60
    assert len(committed) == len(set(committed)) == 40
    # In flight at a kill and not committed, so asked again: at most two a kill.
    assert len(daemon.questions) <= 60 + 2 * 20
