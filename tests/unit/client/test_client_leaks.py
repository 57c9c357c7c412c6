"""Nothing but errors of our own tree leaves the client."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes.daemon import FakeDaemon
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ollama_bridge.client import AsyncClient, Client
from ollama_bridge.client.wire.clock import HTTPX_ERRORS
from ollama_bridge.client.wire.exchange import Call
from ollama_bridge.errors import ConfigError, DaemonError


def add(a: int, b: int) -> int:
    """Add."""
    return a + b


HOST = "127.0.0.1:9"
DIGEST = "sha256:" + "0" * 64
CALLS: dict[str, tuple[Any, ...]] = {
    "ask": (Call("POST", "/api/generate", json={"model": "m", "prompt": "hi"}, model="m"),),
    "chat": ("m", "hi"),
    "copy": ("m", "n"),
    "create": ({"model": "m"},),
    "delete": ("m",),
    "embed": ("m", "hi"),
    "embed_parts": ("m", "hi"),
    "events": ({"model": "m", "messages": [{"role": "user", "content": "hi"}]},),
    "generate": ("m", "hi"),
    "has_blob": (DIGEST,),
    "list": (),
    "load": ("m",),
    "next_token": ("m", "hi"),
    "parse": ("m", "hi", int),
    "ps": (),
    "pull": ("m",),
    "push": ("m",),
    "render": ("m", "hi"),
    "run_tools": ("m", "hi", [add]),
    "show": ("m",),
    "stream": ("m", "hi"),
    "unload": ("m",),
    "version": (),
}
REQUEST = httpx.Request("GET", "http://x")


def httpx_errors() -> list[Exception]:
    """One of each exception that httpx can raise."""
    found = []
    for _, one in inspect.getmembers(httpx, inspect.isclass):
        if not issubclass(one, Exception):
            continue
        names = inspect.signature(one).parameters
        if "response" in names:
            found.append(one("boom", request=REQUEST, response=httpx.Response(500)))
        else:
            found.append(one("boom") if "message" in names else one())
    return found


def raising(error: Exception) -> Callable[[httpx.Request], httpx.Response]:
    def handler(request: httpx.Request) -> httpx.Response:
        raise error

    return handler


class Breaking(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that raises after its first bytes."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __iter__(self) -> Iterator[bytes]:
        yield b'{"response": "a", '
        raise self._error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


def test_every_method_is_tried() -> None:
    """A new method of the client has to be added to the table above."""
    public = {name for name in dir(Client) if not name.startswith("_")}
    # A batch asks with clients of its own.
    assert public - {"host", "close", "upload_blob", "batch"} == set(CALLS)


@pytest.mark.parametrize("error", httpx_errors(), ids=lambda error: type(error).__name__)
def test_every_exception_of_httpx_is_translated(ask: Any, error: Exception) -> None:
    """Raised before an answer or in the middle of one, by any method: it becomes ours."""
    assert isinstance(error, HTTPX_ERRORS)
    for method, args in CALLS.items():
        for handler in (raising(error), lambda _: httpx.Response(200, stream=Breaking(error))):
            with pytest.raises(DaemonError) as caught:
                ask(HOST, method, *args, handler=handler)
            assert caught.value.hint
            assert caught.value.phase is not None
            assert caught.value.attempts == 1


def test_a_closed_client_says_so(fake_daemon: FakeDaemon) -> None:
    """Rather than open connections that nobody would close."""
    with Client(fake_daemon.host) as client:
        assert client.version()
    with pytest.raises(ConfigError, match="is closed"):
        client.version()

    async def run() -> None:
        async with AsyncClient(fake_daemon.host) as other:
            assert await other.version()
        with pytest.raises(ConfigError, match="is closed"):
            await other.chat("m", "hi")

    asyncio.run(run())


def test_a_client_of_another_event_loop_says_so() -> None:
    """Its connections are dead; asyncio's own error would come at every other question."""
    wire = httpx.MockTransport(lambda _: httpx.Response(200, json={"version": "1"}))
    client = AsyncClient(HOST, transport=wire)

    async def ask(method: str, *args: str) -> None:
        await getattr(client, method)(*args)

    asyncio.run(ask("version"))
    for method, args in (("version", ()), ("chat", ("m", "hi"))):
        with pytest.raises(ConfigError, match="another event loop"):
            asyncio.run(ask(method, *args))


def test_an_upload_that_breaks_is_translated(ask: Any, tmp_path: Path) -> None:
    """Sending a file raises errors of ours too."""
    path = tmp_path / "f"
    path.write_bytes(b"x")
    with pytest.raises(DaemonError):
        ask(HOST, "upload_blob", path, DIGEST, handler=raising(httpx.WriteError("boom")))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n\n",
        b"\xff\xfe",
        b"{",
        b'{"a": "\xc3"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"7",
        b'"text"',
        b"[]",
        b"null",
        b'{"version": ' + b"9" * 5000 + b"}",
        b'{"done": true, "eval_count": 1e999}',
        b'{"done": true, "logprobs": [null]}',
        b'{"done": true, "message": []}',
    ],
    ids=lambda body: repr(body[:20]),
)
def test_bad_bodies_are_translated(ask: Any, body: bytes) -> None:
    """No error of the JSON reader, nor of reading its values, gets out."""
    escaped = {}
    for method, args in CALLS.items():
        try:
            ask(HOST, method, *args, handler=lambda _: httpx.Response(200, content=body))
        except DaemonError:
            pass
        except Exception as exc:
            escaped[method] = exc
    assert escaped == {}


KEYS = st.sampled_from(
    [
        "message",
        "response",
        "content",
        "thinking",
        "done",
        "done_reason",
        "model",
        "models",
        "name",
        "digest",
        "size",
        "status",
        "total",
        "completed",
        "eval_count",
        "prompt_eval_count",
        "total_duration",
        "logprobs",
        "token",
        "logprob",
        "bytes",
        "error",
        "code",
        "top_logprobs",
        "tool_calls",
        "function",
        "arguments",
        "version",
        "capabilities",
        "model_info",
        "_debug_info",
        "rendered_template",
        "modelfile",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    status=st.sampled_from([200, 200, 200, 204, 302, 400, 404, 500]),
    lines=st.lists(st.dictionaries(KEYS, VALUES, max_size=6) | VALUES, max_size=3),
)
def test_odd_values_are_translated(ask: Any, status: int, lines: list[Any]) -> None:
    """JSON of the right names and the wrong kinds gives a value or blames the daemon."""
    body = b"\n".join(json.dumps(line).encode() for line in lines)
    for method, args in CALLS.items():
        with contextlib.suppress(DaemonError):
            ask(HOST, method, *args, handler=lambda _: httpx.Response(status, content=body))
