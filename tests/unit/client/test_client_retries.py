"""A question is asked again only where that helps and nobody has seen a part of its answer."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest
from fakes.daemon import (
    CRASH,
    Asked,
    FakeDaemon,
    Fault,
    Turn,
    hang_up_late_at_first,
    nobody_listens,
)

from ollama_bridge.client import AsyncClient, Client, Retries, Text, Timeouts
from ollama_bridge.client.wire.retries import Attempts
from ollama_bridge.errors import (
    ConfigError,
    DaemonBusyError,
    DaemonError,
    DaemonTimeoutError,
    DaemonUnreachableError,
    ModelNotFoundError,
    ReplyInvalidError,
    RequestRejectedError,
    RunnerCrashedError,
    StreamBrokenError,
)

SOON = Retries(attempts=3, pause_s=0.01)
FINE = Turn()
TERMINATED = "llama-server process has terminated"


def in_turn(*turns: Turn) -> Callable[[Asked], Turn]:
    waiting = iter(turns)
    return lambda asked: next(waiting, FINE)


@pytest.mark.parametrize(
    "turn",
    [
        Turn(fault=Fault.HANG_UP),
        Turn(fault=Fault.BUSY),
        Turn(fault=Fault.NO_DONE, pieces=[]),
        Turn(fault=Fault.CUT, pieces=[]),
        Turn(fault=Fault.ERROR_LINE, pieces=[]),
        Turn(refusal=(502, "bad gateway")),
        Turn(refusal=(500, CRASH)),
        Turn(refusal=(500, f"{TERMINATED}: signal: killed")),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["generate", "chat", "stream"])
def test_what_passes_is_asked_again(
    fake_daemon: FakeDaemon, ask: Any, method: str, turn: Turn
) -> None:
    """Twice it fails before its first token, then it is answered; the caller sees one answer."""
    fake_daemon.script = in_turn(turn, turn)
    found = ask(fake_daemon.host, method, "m", "hi", retries=SOON)
    text = found[-1].reply.text if method == "stream" else found.text
    assert text == "Hello!"
    assert len(fake_daemon.questions) == 3


@pytest.mark.parametrize("method", ["generate", "chat", "stream", "embed"])
def test_attempts_are_bounded_and_counted(ask: Any, method: str) -> None:
    """The last error comes out, and says how often it was tried."""
    asked = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(503, json={"error": "server busy"})

    with pytest.raises(DaemonBusyError) as caught:
        ask("127.0.0.1:9", method, "m", "hi", retries=SOON, handler=handler)
    assert len(asked) == caught.value.attempts == 3


def test_a_proxy_whose_daemon_restarts_is_asked_again(ask: Any) -> None:
    """Its 502 is a page, not JSON; then the daemon is back."""
    pages = iter([httpx.Response(502, html="<html>Bad gateway</html>")])
    answer = b'{"response": "Yes", "done": true}'

    def handler(_: httpx.Request) -> httpx.Response:
        return next(pages, None) or httpx.Response(200, content=answer)

    assert ask("127.0.0.1:9", "generate", "m", "hi", retries=SOON, handler=handler).text == "Yes"


def test_nobody_there_is_tried_again(ask: Any) -> None:
    """A daemon that restarts is back in a moment."""
    with pytest.raises(DaemonUnreachableError) as caught:
        ask(nobody_listens(), "chat", "m", "hi", retries=SOON)
    assert (caught.value.attempts, caught.value.phase) == (3, "connect")


@pytest.mark.parametrize(
    ("turn", "kind"),
    [
        (Turn(refusal=(400, "bad request")), RequestRejectedError),
        (Turn(refusal=(404, "model 'm' not found")), ModelNotFoundError),
        (Turn(refusal=(500, f"{TERMINATED}: error loading model")), RequestRejectedError),
        (Turn(refusal=(500, "option must be of type float32")), RequestRejectedError),
        (Turn(fault=Fault.HTML_PAGE), ReplyInvalidError),
        (Turn(fault=Fault.SILENT), DaemonTimeoutError),
        (Turn(fault=Fault.STALL), DaemonTimeoutError),
    ],
    ids=str,
)
def test_what_stays_is_not_asked_again(
    fake_daemon: FakeDaemon, ask: Any, turn: Turn, kind: type[DaemonError]
) -> None:
    """A refusal, a page of a proxy, and a limit that ran out once somebody was there."""
    fake_daemon.script = lambda asked: turn
    limits = Timeouts()
    if turn.fault in (Fault.SILENT, Fault.STALL):
        limits = Timeouts(load_s=0.0, first_token_s=0.5, between_tokens_s=0.5)
    with pytest.raises(kind) as caught:
        ask(fake_daemon.host, "chat", "m", "hi", timeouts=limits, retries=SOON)
    assert caught.value.attempts == 1
    assert len(fake_daemon.questions) == 1


@pytest.mark.parametrize("method", ["chat", "stream"])
def test_an_answer_that_a_parser_cannot_read_is_not_asked_for_again(ask: Any, method: str) -> None:
    """It would come again, or never: the runner of 0.24 waits for somebody to read the rest."""
    asked = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        lines = ['{"message": {"content": "So: "}, "done": false}', '{"error": "EOF"}']
        return httpx.Response(200, content="\n".join(lines).encode())

    with pytest.raises(RunnerCrashedError, match="while answering: EOF") as caught:
        ask("127.0.0.1:9", method, "m", "hi", retries=SOON, handler=handler)
    assert (len(asked), caught.value.attempts, caught.value.partial_text) == (1, 1, "So: ")


def test_what_was_given_out_is_not_begun_anew(fake_daemon: FakeDaemon) -> None:
    """A stream that broke after its first piece is an error; a whole reply may be asked again."""
    broken = Turn(fault=Fault.NO_DONE)
    fake_daemon.script = in_turn(broken, broken)
    with Client(fake_daemon.host, retries=SOON) as client:
        stream = client.stream("m", "hi")
        assert next(stream) == Text("Hel")
        with pytest.raises(StreamBrokenError):
            list(stream)
        assert len(fake_daemon.questions) == 1
        assert client.chat("m", "hi").text == "Hello!"
    assert len(fake_daemon.questions) == 3


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("method", ["generate", "chat"])
def test_a_daemon_killed_in_mid_answer_leaves_what_had_come(
    ask: Any, method: str, resume: bool
) -> None:
    """Though nobody is there when it is asked again."""
    piece = {"message": {"content": "Hel"}, "response": "Hel", "done": False}
    answers = iter([json.dumps(piece).encode() + b"\n"])

    def handler(request: httpx.Request) -> httpx.Response:
        content = next(answers, None)
        if content is None:
            raise httpx.ConnectError("Connection refused", request=request)
        return httpx.Response(200, content=content)

    retries = Retries(attempts=3, pause_s=0.01, resume=resume)
    with pytest.raises(StreamBrokenError, match="since then no daemon answers") as caught:
        ask("127.0.0.1:9", method, "m", "hi", retries=retries, handler=handler)
    assert (caught.value.partial_text, caught.value.attempts) == ("Hel", 3)
    assert "daemon start" in str(caught.value.hint)


def test_questions_that_need_no_model_are_asked_once(fake_daemon: FakeDaemon, ask: Any) -> None:
    """Whether a daemon is there is answered at once."""
    fake_daemon.fault = Fault.BUSY
    with pytest.raises(DaemonBusyError):
        ask(fake_daemon.host, "version", retries=SOON)
    assert len(fake_daemon.asked) == 1


def test_the_whole_has_one_deadline(fake_daemon: FakeDaemon, ask: Any) -> None:
    """No attempt begins that could not end in time."""
    fake_daemon.fault = Fault.BUSY
    limits = Timeouts(total_s=1.0)
    with pytest.raises((DaemonBusyError, DaemonTimeoutError)):
        retries = Retries(attempts=1000, pause_s=0.1, longest_pause_s=0.1)
        ask(fake_daemon.host, "chat", "m", "hi", timeouts=limits, retries=retries)
    assert 1 < len(fake_daemon.questions) < 1000


@pytest.mark.parametrize("method", ["generate", "chat", "stream", "embed"])
def test_a_later_attempt_has_what_the_first_one_left(
    fake_daemon: FakeDaemon, ask: Any, read_limits: list[float], method: str
) -> None:
    """Else three attempts might take three times as long as the whole."""
    hang_up_late_at_first(fake_daemon, after_s=0.1)
    limits = Timeouts(load_s=60.0, first_token_s=60.0, between_tokens_s=60.0, total_s=10.0)
    ask(fake_daemon.host, method, "m", "hi", timeouts=limits, retries=SOON)
    assert len(fake_daemon.asked) == 2
    assert read_limits[-1] <= 9.9
    assert sorted(read_limits, reverse=True) == read_limits


def test_a_storm_of_503_is_ridden_out(fake_daemon: FakeDaemon) -> None:
    """Many at once, most of them refused at first: each is answered, none twice."""
    fake_daemon.script = in_turn(*[Turn(fault=Fault.BUSY)] * 30)
    retries = Retries(attempts=20, pause_s=0.01, longest_pause_s=0.05)

    async def run() -> list[str]:
        async with AsyncClient(fake_daemon.host, retries=retries) as client:
            replies = await asyncio.gather(*(client.chat("m", f"{n}") for n in range(12)))
            return [reply.text for reply in replies]

    assert asyncio.run(run()) == ["Hello!"] * 12
    assert len(fake_daemon.questions) == 42


def test_nobody_waits_for_a_connection(fake_daemon: FakeDaemon) -> None:
    """However much is asked at a time, all of it is on its way at once."""
    all_there = threading.Barrier(110, timeout=10)

    def together(asked: Asked) -> Turn:
        all_there.wait()
        return FINE

    async def run() -> int:
        async with AsyncClient(fake_daemon.host) as client:
            return len(await asyncio.gather(*(client.chat("m", f"{n}") for n in range(110))))

    fake_daemon.script = together
    assert asyncio.run(run()) == 110


def pauses_s(retries: Retries, errors: Sequence[DaemonError], *, total_s: float) -> list[float]:
    now_s = 0.0
    attempts = Attempts(retries, total_s, lambda: now_s)
    found = []
    for error in errors:
        found.append(attempts.next_pause_s(error))
        now_s += found[-1]
    return found


def test_pauses_grow_to_a_bound_and_are_drawn() -> None:
    """Each between nothing and the doubled one before; two clients do not come back as one."""
    retries = Retries(attempts=9, pause_s=1.0, longest_pause_s=4.0)
    errors = [DaemonUnreachableError("x")] * 8
    runs = [pauses_s(retries, errors, total_s=1000.0) for _ in range(50)]
    bounds = [1.0, 2.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0]
    for pauses in runs:
        assert all(0 <= pause <= bound for pause, bound in zip(pauses, bounds, strict=True))
    assert len({tuple(pauses) for pauses in runs}) == 50
    with pytest.raises(DaemonUnreachableError):
        pauses_s(retries, [*errors, DaemonUnreachableError("x")], total_s=1000.0)


@pytest.mark.parametrize(
    "wrong", [{"attempts": 0}, {"pause_s": -1.0}, {"longest_pause_s": float("inf")}]
)
def test_retries_are_finite(wrong: dict[str, Any]) -> None:
    """There is no way to ask for ever."""
    with pytest.raises(ConfigError, match="is not valid"):
        Retries(**wrong)
