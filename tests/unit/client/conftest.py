"""A fake daemon for each test, and one way to ask both clients."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from fakes.daemon import FakeDaemon
from httpcore._backends.anyio import AnyIOStream
from httpcore._backends.sync import SyncStream

from ollama_bridge.client import AsyncClient, Client, Retries, Timeouts
from ollama_bridge.client.wire.retries import NO_RETRIES

# Runs one method of a client; a stream is read to its end and given as a list.
Ask = Callable[..., Any]

# Never reached by a healthy fake, however busy the machine; a test of a limit sets its own.
PATIENT = Timeouts(
    connect_s=10.0, load_s=10.0, first_token_s=10.0, between_tokens_s=10.0, total_s=20.0
)


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    """A connection that a test leaves open is told of that test, not of one that comes later."""
    gc.freeze()  # what was there before, torch perhaps, is not searched
    yield
    gc.collect()
    gc.unfreeze()


@pytest.fixture
def fake_daemon() -> Iterator[FakeDaemon]:
    """A healthy daemon; a test may give it a fault."""
    with FakeDaemon() as daemon:
        yield daemon


def ask_blocking(
    host: str,
    method: str,
    *args: Any,
    timeouts: Timeouts = PATIENT,
    retries: Retries = NO_RETRIES,
    handler: Callable[[httpx.Request], httpx.Response] | None = None,
    **kwargs: Any,
) -> Any:
    transport = httpx.MockTransport(handler) if handler else None
    with Client(host, timeouts=timeouts, retries=retries, transport=transport) as client:
        found = getattr(client, method)(*args, **kwargs)
        return list(found) if isinstance(found, Iterator) else found


def ask_asyncio(
    host: str,
    method: str,
    *args: Any,
    timeouts: Timeouts = PATIENT,
    retries: Retries = NO_RETRIES,
    handler: Callable[[httpx.Request], httpx.Response] | None = None,
    **kwargs: Any,
) -> Any:
    async def run() -> Any:
        transport = httpx.MockTransport(handler) if handler else None
        async with AsyncClient(
            host, timeouts=timeouts, retries=retries, transport=transport
        ) as client:
            found = getattr(client, method)(*args, **kwargs)
            if isinstance(found, AsyncIterator):
                return [event async for event in found]
            return await found

    return asyncio.run(run())


@pytest.fixture(params=[ask_blocking, ask_asyncio], ids=["blocking", "asyncio"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Every rule holds for both clients."""
    return request.param


@pytest.fixture
def read_limits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each read of a connection might have waited, in seconds, in their order."""
    waits: list[float] = []
    for kind in (SyncStream, AnyIOStream):
        read: Any = kind.read

        def spy(self: Any, max_bytes: int, timeout: float | None = None, read: Any = read) -> Any:
            waits.append(timeout or 0.0)
            return read(self, max_bytes, timeout)

        monkeypatch.setattr(kind, "read", spy)
    return waits
