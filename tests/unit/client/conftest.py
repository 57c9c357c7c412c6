"""A fake daemon for each test, and one way to ask both clients."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from fakes.daemon import FakeDaemon
from fakes.either_client import KINDS, opened
from httpcore._backends.anyio import AnyIOStream
from httpcore._backends.sync import SyncStream

from ollama_bridge import client as clients
from ollama_bridge.client import Retries, Timeouts
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


@pytest.fixture(params=KINDS)
def client_kind(request: pytest.FixtureRequest) -> str:
    """Every rule holds for both clients."""
    return str(request.param)


@pytest.fixture
def ask(client_kind: str) -> Ask:
    """One method of a client of its own."""

    def ask_once(
        host: str,
        method: str,
        *args: Any,
        timeouts: Timeouts = PATIENT,
        retries: Retries = NO_RETRIES,
        handler: Callable[[httpx.Request], httpx.Response] | None = None,
        **kwargs: Any,
    ) -> Any:
        transport = httpx.MockTransport(handler) if handler else None
        settings: Any = {"timeouts": timeouts, "retries": retries, "transport": transport}
        with opened(client_kind, clients, host, **settings) as client:
            return getattr(client, method)(*args, **kwargs)

    return ask_once


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
