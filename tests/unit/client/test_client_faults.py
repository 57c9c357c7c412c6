"""Whatever a daemon does wrong is one error of ours, after a finite time, with the text so far."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import httpx
import pytest
from fakes.daemon import FakeDaemon, Fault, nobody_listens

from ollama_bridge.client import AsyncClient, Client, Text, Timeouts
from ollama_bridge.client.model_names import require_model
from ollama_bridge.client.wire.address import read_address
from ollama_bridge.client.wire.clock import Clock
from ollama_bridge.client.wire.deadlines import bound
from ollama_bridge.client.wire.exchange import Answer, Call, check_status
from ollama_bridge.client.wire.lines import parse_line
from ollama_bridge.client.wire.refusals import rejection
from ollama_bridge.client.wire.retries import NO_RETRIES, Retries
from ollama_bridge.errors import (
    ConfigError,
    DaemonBusyError,
    DaemonError,
    DaemonTimeoutError,
    DaemonUnreachableError,
    ModelNotFoundError,
    RepetitionError,
    ReplyInvalidError,
    RequestRejectedError,
    RunnerCrashedError,
    StreamBrokenError,
)

EXPECTED: dict[Fault, type[DaemonError]] = {
    Fault.SILENT: DaemonTimeoutError,
    Fault.HANG_UP: DaemonUnreachableError,
    Fault.BUSY: RequestRejectedError,
    Fault.REDIRECT: RequestRejectedError,
    Fault.HTML_PAGE: ReplyInvalidError,
    Fault.RESET: StreamBrokenError,
    Fault.BAD_CHUNK: StreamBrokenError,
    Fault.BAD_JSON: ReplyInvalidError,
    Fault.BAD_UTF8: ReplyInvalidError,
    Fault.NOT_AN_OBJECT: ReplyInvalidError,
    Fault.ERROR_LINE: RunnerCrashedError,
    Fault.NO_DONE: StreamBrokenError,
    Fault.CUT: StreamBrokenError,
    Fault.ENDLESS: ReplyInvalidError,
    Fault.STALL: DaemonTimeoutError,
    Fault.DRIP: DaemonTimeoutError,
}
BEFORE_ANY_TEXT = {
    Fault.SILENT,
    Fault.HANG_UP,
    Fault.BUSY,
    Fault.REDIRECT,
    Fault.HTML_PAGE,
    Fault.DRIP,
}


@pytest.mark.parametrize("method", ["generate", "chat", "stream"])
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.name)
def test_each_fault_is_one_error(
    fake_daemon: FakeDaemon, ask: Any, fault: Fault, method: str
) -> None:
    """Streaming or not, a fault raises its documented error, keeps the text, and soon."""
    fake_daemon.fault = fault
    limits = Timeouts()
    if fault is Fault.SILENT:
        limits = Timeouts(load_s=0.1, first_token_s=0.1)
    if fault is Fault.STALL:
        limits = Timeouts(between_tokens_s=0.3)
    if fault is Fault.DRIP:
        fake_daemon.pause_s = 0.02
        limits = Timeouts(total_s=0.2)
    start_s = time.monotonic()
    with pytest.raises(EXPECTED[fault]) as caught:
        ask(fake_daemon.host, method, "m", "hi", timeouts=limits)
    assert time.monotonic() - start_s < 5
    assert caught.value.partial_text == ("" if fault in BEFORE_ANY_TEXT else "Hello!")
    assert caught.value.model == "m"
    assert caught.value.phase is not None
    assert caught.value.hint


@pytest.mark.parametrize("piece", ["!", " \n", " word"])
@pytest.mark.parametrize("method", ["generate", "chat", "stream"])
def test_an_answer_that_ollama_ends_for_its_repeats_is_told(
    fake_daemon: FakeDaemon, ask: Any, method: str, piece: str
) -> None:
    """Up to 0.34.0 by a stream that ends; it is no fault of the connection, and never asked again.

    Blanks around a token do not count, nor does which of them come.
    """
    fake_daemon.pieces, fake_daemon.fault = ["So", *[piece] * 30], Fault.NO_DONE
    with pytest.raises(RepetitionError, match="repeated one token") as caught:
        ask(fake_daemon.host, method, "m", "hi", retries=Retries(attempts=3))
    assert caught.value.partial_text.startswith(f"So{piece}")
    assert "repeat_penalty" in str(caught.value.hint)
    assert (caught.value.attempts, caught.value.pieces) == (1, 31)


def test_a_stream_that_breaks_among_repeats_is_a_broken_one(
    fake_daemon: FakeDaemon, ask: Any
) -> None:
    """Twenty of a kind are no reason for Ollama to end an answer."""
    fake_daemon.pieces, fake_daemon.fault = ["."] * 20, Fault.NO_DONE
    with pytest.raises(StreamBrokenError):
        ask(fake_daemon.host, "chat", "m", "hi")


@pytest.mark.parametrize(
    ("thinking", "pieces", "may_hide"),
    [(["Hm"], [], True), ([], [], True), (["Hm"], ["So"], True), ([], ["So"], False)],
)
def test_repeats_that_the_daemon_held_back_are_thought_of(
    fake_daemon: FakeDaemon, ask: Any, thinking: list[str], pieces: list[str], *, may_hide: bool
) -> None:
    """Nobody sees blanks beside a thought; Ollama counts them. But it may be another fault."""
    fake_daemon.thinking, fake_daemon.pieces = thinking, pieces
    fake_daemon.fault = Fault.NO_DONE
    with pytest.raises(StreamBrokenError) as caught:
        ask(fake_daemon.host, "chat", "m", "hi")
    assert ("repeat_penalty" in str(caught.value.hint)) == may_hide
    assert str(caught.value.hint).startswith("ask again")


def test_repeats_that_the_daemon_tells_of_are_no_crash() -> None:
    """As from 0.34.1 on."""
    line = b'{"error": "prediction aborted, token repeat limit reached"}'
    with pytest.raises(RepetitionError, match="'m'"):
        parse_line(line, model="m")
    with pytest.raises(RepetitionError, match="'m'"):  # where no piece was given out
        raise rejection(500, "prediction aborted, token repeat limit reached", model="m")


@pytest.mark.parametrize("drop", ["HTTP/1.1 102 Processing\r\n\r\n", "X-Header: 1\r\n"])
def test_interim_replies_are_no_answer(ask: Any, drop: str) -> None:
    """Nor are headers without end: they come again and again, so it is never silent."""
    listener = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        with contextlib.suppress(OSError), listener, listener.accept()[0] as connection:
            if drop.startswith("X"):
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while True:
                connection.sendall(drop.encode())
                gone.wait(0.01)

    gone = threading.Event()
    thread = threading.Thread(target=drip)
    thread.start()
    limits = Timeouts(load_s=0.1, first_token_s=0.1)
    host, port = listener.getsockname()
    with pytest.raises(DaemonTimeoutError, match=r"within 0\.2 s") as caught:
        ask(f"{host}:{port}", "chat", "m", "hi", timeouts=limits)
    assert caught.value.phase == "load"
    thread.join()


def test_no_silence_is_waited_for_beyond_the_whole(
    fake_daemon: FakeDaemon, ask: Any, read_limits: list[float]
) -> None:
    """Each read waits for what is left, not for as long as the first one might."""
    fake_daemon.fault, fake_daemon.pause_s = Fault.DRIP, 0.001
    limits = Timeouts(total_s=10.0, between_tokens_s=60.0)
    assert ask(fake_daemon.host, "chat", "m", "hi", timeouts=limits).text == "Hello!"
    assert len(read_limits) > 3
    assert sorted(set(read_limits), reverse=True) == read_limits
    assert read_limits[0] <= 10.0


def test_an_httpx_of_other_insides_is_left_as_it_is() -> None:
    """A version that keeps its connections elsewhere still asks, with the limits that it has."""
    with httpx.HTTPTransport() as transport:
        pool, other = transport._pool, cast(Any, object())
        transport._pool = other
        bound(transport)
        found, transport._pool = transport._pool, pool
    assert found is other


def connections_in_use(client: Client | AsyncClient) -> int:
    """How many are neither idle nor closed; httpx has no public way to ask."""
    pool: Any = client._transport._send
    pool = pool.__self__
    return sum(not (one.is_idle() or one.is_closed()) for one in pool._pool.connections)


def test_closing_that_is_cancelled_leaves_no_connection(fake_daemon: FakeDaemon) -> None:
    """As when a batch is left at its last row, or a web service drops a task that exits."""

    async def run() -> None:
        client = AsyncClient(fake_daemon.host)
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(client.chat("m", "hi"))
        pool: Any = client._transport._send
        connections = list(pool.__self__._pool.connections)
        assert len(connections) == 3
        closing = asyncio.ensure_future(client.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert all(one.is_closed() for one in connections)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())


@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.name)
def test_no_fault_leaks_a_connection_or_a_task(fake_daemon: FakeDaemon, fault: Fault) -> None:
    """After the error nothing is held, and the same client goes on."""
    fake_daemon.fault = fault
    fake_daemon.pause_s = 0.02 if fault is Fault.DRIP else 0.0
    limits = Timeouts(load_s=0.05, first_token_s=0.05, between_tokens_s=0.05)

    async def run() -> None:
        async with AsyncClient(fake_daemon.host, timeouts=limits, retries=NO_RETRIES) as client:
            with pytest.raises(DaemonError):
                await client.chat("m", "hi")
            assert connections_in_use(client) == 0
            assert len(asyncio.all_tasks()) == 1

    with Client(fake_daemon.host, timeouts=limits, retries=NO_RETRIES) as client:
        with pytest.raises(DaemonError):
            client.chat("m", "hi")
        assert connections_in_use(client) == 0
        asyncio.run(run())
        fake_daemon.fault, fake_daemon.pause_s = None, 0.0
        client._transport._timeouts = Timeouts()  # a healthy answer may take its time
        assert client.version() == "0.34.4"


@pytest.mark.parametrize(
    ("host", "name", "value"),
    [
        ("box:11434", "ALL_PROXY", "socks5://127.0.0.1:1080"),
        ("box:11434", "ALL_PROXY", "socks://127.0.0.1:1080"),
        ("https://box", "SSL_CERT_FILE", "/none.pem"),
        ("https://localhost", "SSL_CERT_FILE", "/none.pem"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_told(
    ask: Any, monkeypatch: pytest.MonkeyPatch, host: str, name: str, value: str
) -> None:
    """Desktops export such ones, and httpx reads all of them; our own machine needs no proxy."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="cannot be used") as caught:
        ask(host, "version")
    assert name in str(caught.value.hint)
    with pytest.raises(DaemonUnreachableError):
        ask(nobody_listens(), "version")


@pytest.mark.parametrize("character", list("/#?"))
def test_half_a_proxy_s_password_is_not_shown(
    ask: Any, monkeypatch: pytest.MonkeyPatch, character: str
) -> None:
    """Which httpx takes for a port, where the password was not escaped; the hint says how."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:geheim{character}42@proxy:3128")
    with pytest.raises(ConfigError, match="cannot be used") as caught:
        ask("https://box", "version")
    shown = "".join(traceback.format_exception(caught.value))
    assert "geheim" not in shown
    assert "%2F" in str(caught.value.hint)


def test_nobody_listens(ask: Any) -> None:
    """A refused connection says how to start a daemon."""
    with pytest.raises(DaemonUnreachableError, match="no daemon answers at") as caught:
        ask(nobody_listens(), "generate", "m", "hi")
    assert "ollama-bridge daemon start" in str(caught.value.hint)


def test_what_starts_no_daemon_is_not_advised(ask: Any) -> None:
    """One is started without TLS, and on this machine; an unknown authority has a name to give."""
    with pytest.raises(DaemonUnreachableError) as caught:
        ask(f"https://{nobody_listens()}", "version")
    assert "daemon start" not in str(caught.value.hint)
    failed = httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate")
    for host in ("https://box", "https://localhost"):
        clock = Clock(Call("GET", "/api/version"), read_address(host), Timeouts())
        assert "export SSL_CERT_FILE=" in str(clock.translate(failed).hint)


def test_a_daemon_without_tls_is_told(fake_daemon: FakeDaemon, ask: Any) -> None:
    """Who wrote https:// learns that http:// would do."""
    with pytest.raises(DaemonUnreachableError) as caught:
        ask(f"https://{fake_daemon.host.removeprefix('http://')}", "version")
    assert "write http://" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["HTTP_PROXY", "ALL_PROXY"])
def test_a_proxy_that_is_not_there_is_no_daemon(
    ask: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What refused the connection was not the daemon, and may not be needed to reach it."""
    monkeypatch.setenv(name, f"http://me:geheim@{nobody_listens()}")
    with pytest.raises(
        DaemonUnreachableError, match=f"through the proxy that {name} names"
    ) as told:
        ask("http://192.0.2.1:11434", "version", retries=NO_RETRIES)
    assert "geheim" not in str(told.value)
    assert told.value.hint == "if it is to be reached directly: export NO_PROXY=192.0.2.1"
    monkeypatch.setenv("NO_PROXY", "192.0.2.0/24,192.0.2.1")
    clock = Clock(Call("GET", "/api/version"), read_address("192.0.2.1"), Timeouts())
    assert "proxy" not in str(clock.translate(httpx.ConnectError("refused")))


@pytest.mark.parametrize(
    ("status", "body", "message", "hint"),
    [
        (301, b"", "Moved Permanently", "https://"),
        (302, b"<html>", "not in JSON: '<html>'", "https://"),
        (401, b"", "Unauthorized", "OLLAMA_API_KEY"),
        (403, b"", "Forbidden", "'Host: localhost'"),
        (403, b'{"error": "cloud is off"}', "cloud is off", "doctor"),
        (413, b"", "", "shorten it"),  # its words differ from one Python to the next
        (502, b"<html>", "not in JSON: '<html>'", "try again"),
        (599, b"", "without a word", "doctor"),
    ],
)
def test_a_refusal_s_status_says_what_to_do(
    status: int, body: bytes, message: str, hint: str
) -> None:
    """As of what is before a daemon, and of a daemon's own where it has no word for it."""
    with pytest.raises(RequestRejectedError) as caught:
        check_status(Answer(status, body), Call("GET", "/api/version"))
    assert str(status) in caught.value.message
    assert message in caught.value.message
    assert "''" not in caught.value.message
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("fault", "limits", "phase", "limit_s"),
    [
        (Fault.SILENT, Timeouts(load_s=0.1, first_token_s=0.2), "load", 0.3),
        (Fault.SILENT, Timeouts(load_s=0.0, first_token_s=0.2), "first_token", 0.2),
        (Fault.SILENT, Timeouts(total_s=0.2), "total", 0.2),
        (Fault.STALL, Timeouts(between_tokens_s=0.2), "between_tokens", 0.2),
        (Fault.STALL, Timeouts(total_s=0.2), "total", 0.2),
        (Fault.DRIP, Timeouts(total_s=0.2), "total", 0.2),
        (Fault.DRIP, Timeouts(between_tokens_s=0.2), "between_tokens", 0.2),
    ],
)
def test_timeouts_name_their_phase(
    fake_daemon: FakeDaemon, ask: Any, fault: Fault, limits: Timeouts, phase: str, limit_s: float
) -> None:
    """The error says which limit ran out, and how long it was."""
    fake_daemon.fault = fault
    fake_daemon.pause_s = 0.02 if fault is Fault.DRIP else 0.0
    with pytest.raises(DaemonTimeoutError) as caught:
        ask(fake_daemon.host, "generate", "m", "hi", timeouts=limits)
    assert caught.value.phase == phase
    assert caught.value.limit_s == pytest.approx(limit_s)


def test_a_silent_daemon_is_found_out_by_questions_that_need_no_model(
    fake_daemon: FakeDaemon, ask: Any
) -> None:
    """Asking for the version does not wait as long as for a model to load."""
    fake_daemon.fault = Fault.SILENT
    limits = Timeouts(between_tokens_s=0.1)
    with pytest.raises(DaemonTimeoutError, match=r"gave no answer within 0\.1 s") as caught:
        ask(fake_daemon.host, "version", timeouts=limits)
    assert caught.value.phase == "between_tokens"


def test_a_slow_load_is_waited_for(
    fake_daemon: FakeDaemon, ask: Any, read_limits: list[float]
) -> None:
    """Loading has a limit of its own: longer than that between tokens."""
    limits = Timeouts(load_s=60.0, first_token_s=40.0, between_tokens_s=10.0)
    assert ask(fake_daemon.host, "generate", "m", "hi", timeouts=limits).text == "Hello!"
    assert 50 < read_limits[0] <= 100


def test_a_drip_within_the_limits_is_an_answer(fake_daemon: FakeDaemon, ask: Any) -> None:
    """However small the pieces on the wire, the answer is the same."""
    fake_daemon.fault = Fault.DRIP
    assert ask(fake_daemon.host, "chat", "m", "hi").text == "Hello!"


def test_a_huge_piece_is_a_piece(fake_daemon: FakeDaemon, ask: Any) -> None:
    """A line of 10 MB is read as any other."""
    fake_daemon.pieces = ["x" * 10_000_000]
    assert len(ask(fake_daemon.host, "generate", "m", "hi").text) == 10_000_000


def test_text_is_given_out_before_the_break(fake_daemon: FakeDaemon) -> None:
    """A stream hands over what came, then raises."""
    fake_daemon.fault = Fault.NO_DONE
    seen = []
    with Client(fake_daemon.host) as client, pytest.raises(StreamBrokenError):
        for event in client.stream("m", "hi"):
            seen.append(event)
    assert seen == [Text("Hel"), Text("lo"), Text("!")]


@pytest.mark.parametrize("fault", [Fault.HTML_PAGE, Fault.BUSY, Fault.REDIRECT, Fault.HANG_UP])
@pytest.mark.parametrize("method", ["version", "list", "ps"])
def test_plain_questions_fail_as_clearly(
    fake_daemon: FakeDaemon, ask: Any, fault: Fault, method: str
) -> None:
    """The other routes raise the same errors."""
    fake_daemon.fault = fault
    with pytest.raises(EXPECTED[fault]):
        ask(fake_daemon.host, method)


@pytest.mark.parametrize(("status", "kind"), [(200, ReplyInvalidError), (502, DaemonBusyError)])
@pytest.mark.parametrize("method", ["chat", "version"])
def test_a_proxy_in_between(ask: Any, method: str, status: int, kind: type[DaemonError]) -> None:
    """Its page is no answer, whatever it says of itself; one that the daemon is behind is busy."""
    page = httpx.Response(status, html="<html><body>Bad gateway</body></html>")
    args = ("m", "hi") if method == "chat" else ()
    with pytest.raises(kind) as caught:
        ask("127.0.0.1:9", method, *args, handler=lambda _: page)
    assert "ollama-bridge doctor" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("status", "encoding", "kind"),
    [(200, "gzip, gzip", ReplyInvalidError), (200, "br", ReplyInvalidError)]
    + [(503, "gzip", DaemonBusyError)],
)
@pytest.mark.parametrize("method", ["chat", "stream", "version"])
def test_nothing_is_unpacked(
    ask: Any, method: str, status: int, encoding: str, kind: type[DaemonError]
) -> None:
    """A few bytes may unpack to all memory, and every request asks for what is not compressed."""

    class Unread(httpx.SyncByteStream, httpx.AsyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            raise AssertionError("read")

        async def __aiter__(self) -> AsyncIterator[bytes]:
            raise AssertionError("read")
            yield b""

    def bomb(request: httpx.Request) -> httpx.Response:
        assert request.headers["Accept-Encoding"] == "identity"
        return httpx.Response(status, headers={"Content-Encoding": encoding}, stream=Unread())

    with pytest.raises(kind) as caught:
        ask("127.0.0.1:9", method, *(() if method == "version" else ("m", "hi")), handler=bomb)
    assert caught.value.hint


def test_a_missing_model_says_how_to_get_it(fake_daemon: FakeDaemon, ask: Any) -> None:
    """404 names the model, the command that pulls it, and the one that lists what is there."""
    with pytest.raises(ModelNotFoundError) as caught:
        ask(fake_daemon.host, "chat", "absent:1b", "hi")
    assert caught.value.status_code == 404
    assert caught.value.phase == "load"
    assert "ollama-bridge pull absent:1b" in str(caught.value.hint)
    assert "ollama-bridge ls" in str(caught.value.hint)


def test_a_missing_model_is_told_alike_by_a_request_and_by_the_list(
    fake_daemon: FakeDaemon,
) -> None:
    """Whichever is looked at first: the same words, and the same command."""
    with Client(fake_daemon.host) as client:
        with pytest.raises(ModelNotFoundError) as asked:
            client.chat("absent:1b", "hi")
        with pytest.raises(ModelNotFoundError) as listed:
            require_model(client.list(), "absent:1b")
    assert asked.value.message == listed.value.message
    assert asked.value.hint == listed.value.hint
    assert asked.value.model == listed.value.model == "absent:1b"


@pytest.mark.parametrize("limit", [float("inf"), float("nan"), 0.0, -1.0, None, "1"])
@pytest.mark.parametrize("name", ["connect_s", "first_token_s", "between_tokens_s", "total_s"])
def test_no_limit_is_infinite(name: str, limit: Any) -> None:
    """There is no way to ask for a wait without end."""
    with pytest.raises(ConfigError, match=name):
        Timeouts(**{name: limit})


@pytest.mark.parametrize("module", ["client", "compat"])
@pytest.mark.parametrize("name", ["Client", "AsyncClient"])
def test_limits_and_retries_are_no_numbers(module: str, name: str) -> None:
    """Other clients take them; here each says what is limited, and what is counted."""
    kind = getattr(importlib.import_module(f"ollama_bridge.{module}"), name)
    with pytest.raises(ConfigError, match="timeouts=30") as caught:
        kind(timeouts=30)
    assert "Timeouts(total_s=30)" in (caught.value.hint or "")
    with pytest.raises(ConfigError, match="retries=2") as caught:
        kind(retries=2)
    assert "Retries(attempts=3)" in (caught.value.hint or "")


@pytest.mark.parametrize("module", ["client", "compat"])
def test_a_forked_process_has_connections_of_its_own(fake_daemon: FakeDaemon, module: str) -> None:
    """On one connection two processes would get each other's answers, or half of them."""
    script = f"""if True:
        import os, sys
        from ollama_bridge.{module} import Client

        client = Client(sys.argv[1])
        client.list()
        if child := os.fork():
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        client.list()
        client.list()
    """
    subprocess.run([sys.executable, "-c", script, fake_daemon.host], check=True, timeout=60)
    assert len(fake_daemon.connections) == 2
