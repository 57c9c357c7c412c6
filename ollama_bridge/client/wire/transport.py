"""The only code that speaks HTTP to a daemon."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any, NoReturn

import httpx

from ollama_bridge.client.requests import encode_body
from ollama_bridge.client.wire.address import Address
from ollama_bridge.client.wire.bodies import (
    read_lines,
    read_lines_async,
    read_whole,
    read_whole_async,
)
from ollama_bridge.client.wire.clock import HTTPX_ERRORS, Clock
from ollama_bridge.client.wire.deadlines import bound
from ollama_bridge.client.wire.environment import reading_environment
from ollama_bridge.client.wire.exchange import Answer, Call, Timeouts, check_status, decode
from ollama_bridge.errors import ConfigError, DaemonError

# How much is asked at a time is the caller's to decide; httpx would let all above 100 wait.
LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=100)


class Transport:
    """Blocking requests.

    Args:
        transport: Where requests go instead of the network.
        http: Sends them, with its own headers; None: one is made.
        at_once: So many requests at a time; what is asked beside one does not count. None: any.
    """

    def __init__(
        self,
        address: Address,
        timeouts: Timeouts,
        transport: httpx.BaseTransport | None = None,
        *,
        http: httpx.Client | None = None,
        at_once: int | None = None,
    ) -> None:
        self.address = address
        self._turns = threading.Semaphore(at_once) if at_once is not None else None
        self._timeouts = timeouts
        self._given, self._wire = http, transport
        self._headers = _prepared(address.headers if http is None else http.headers)
        self._send: Callable[[httpx.Request], httpx.Response]
        self._connect()

    def _connect(self) -> None:
        """Begin without connections."""
        self._process_id = os.getpid()
        http, address = self._given, self.address
        if http is None and _may_need_proxy(address):
            with reading_environment():
                http = httpx.Client(
                    verify=_needs_certificates(address), transport=self._wire, limits=LIMITS
                )
        if http is None:
            # Cookies, redirects and the like, which no daemon has, cost a tenth of a request.
            with reading_environment():
                wire = self._wire or httpx.HTTPTransport(
                    verify=_needs_certificates(address), limits=LIMITS
                )
            self._send, self._close = wire.handle_request, wire.close
            bound(wire)
        else:
            bound(http)
            self._send, self._close = partial(http.send, stream=True), http.close

    def close(self) -> None:
        """Close every connection."""
        self._send = _refuse
        self._close()

    def request(self, call: Call, ends_s: float | None = None) -> Answer:
        """A whole reply, whatever its status.

        Args:
            ends_s: When it has to be done, by the monotonic clock; None: by ``total_s``.

        Raises:
            DaemonError: no answer, a limit, a broken connection.
        """
        with self._open(call, ends_s) as (response, clock):
            return Answer(response.status_code, read_whole(response, clock))

    def json(self, call: Call, ends_s: float | None = None) -> Any:
        """The JSON of a reply.

        Raises:
            DaemonError: no answer, an error status, or no JSON.
        """
        answer = self.request(call, ends_s)
        check_status(answer, call)
        return decode(answer.body, call)

    @contextlib.contextmanager
    def lines(self, call: Call, ends_s: float | None = None) -> Iterator[Iterator[bytes]]:
        """The lines of a reply as they come, without empty ones.

        Raises:
            DaemonError: no answer, an error status, a limit, a broken connection.
        """
        with self._open(call, ends_s) as (response, clock):
            if not response.is_success:
                check_status(Answer(response.status_code, read_whole(response, clock)), call)
            yield read_lines(response, clock)

    @contextlib.contextmanager
    def _open(self, call: Call, ends_s: float | None) -> Iterator[tuple[httpx.Response, Clock]]:
        if os.getpid() != self._process_id and self._given is None and self._send is not _refuse:
            self._connect()  # forked: who uses the same connections gets each other's answers
        clock = Clock(call, self.address, self._timeouts, ends_s)
        try:
            with self._turn(clock):
                try:
                    request = _request(call, self.address.url, self._headers, clock, self._given)
                    response = self._send(request)
                except HTTPX_ERRORS as exc:
                    raise clock.translate(exc) from exc
                try:
                    clock.begin_answer(response)
                    yield response, clock
                finally:
                    with contextlib.suppress(*HTTPX_ERRORS):
                        response.close()
        except DaemonError as error:
            clock.place(error)
            raise

    @contextlib.contextmanager
    def _turn(self, clock: Clock) -> Iterator[None]:
        """Wait until less is under way; whoever is asked beside a question would wait for it."""
        turns = self._turns
        if turns is None or clock.call.patience == "beside":
            yield
            return
        if not turns.acquire(timeout=max(0.0, clock.left_s)):
            raise clock.translate(TimeoutError())
        try:
            yield
        finally:
            turns.release()


class AsyncTransport:
    """The same without blocking."""

    def __init__(
        self,
        address: Address,
        timeouts: Timeouts,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        http: httpx.AsyncClient | None = None,
        at_once: int | None = None,
    ) -> None:
        self.address = address
        self._turns = asyncio.Semaphore(at_once) if at_once is not None else None
        self._timeouts = timeouts
        self._loop: asyncio.AbstractEventLoop | None = None
        self._given = http
        self._headers = _prepared(address.headers if http is None else http.headers)
        if http is None and _may_need_proxy(address):
            with reading_environment():
                http = httpx.AsyncClient(
                    verify=_needs_certificates(address), transport=transport, limits=LIMITS
                )
        self._send: Callable[[httpx.Request], Awaitable[httpx.Response]]
        if http is None:
            with reading_environment():
                wire = transport or httpx.AsyncHTTPTransport(
                    verify=_needs_certificates(address), limits=LIMITS
                )
            self._send, self._close = wire.handle_async_request, wire.aclose
            bound(wire)
        else:
            bound(http)
            self._send, self._close = partial(http.send, stream=True), http.aclose

    async def close(self) -> None:
        """Close every connection."""
        self._send = _refuse
        await close_all(self._close)

    async def request(self, call: Call, ends_s: float | None = None) -> Answer:
        """A whole reply, whatever its status; see :meth:`Transport.request`."""
        async with self._open(call, ends_s) as (response, clock):
            return Answer(response.status_code, await read_whole_async(response, clock))

    async def json(self, call: Call, ends_s: float | None = None) -> Any:
        """The JSON of a reply; see :meth:`Transport.json`."""
        answer = await self.request(call, ends_s)
        check_status(answer, call)
        return decode(answer.body, call)

    @contextlib.asynccontextmanager
    async def lines(
        self, call: Call, ends_s: float | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of a reply as they come; see :meth:`Transport.lines`."""
        async with self._open(call, ends_s) as (response, clock):
            if not response.is_success:
                check_status(
                    Answer(response.status_code, await read_whole_async(response, clock)), call
                )
            yield read_lines_async(response, clock)

    @contextlib.asynccontextmanager
    async def _open(
        self, call: Call, ends_s: float | None
    ) -> AsyncIterator[tuple[httpx.Response, Clock]]:
        self._check_loop()
        clock = Clock(call, self.address, self._timeouts, ends_s)
        try:
            async with self._turn(clock):
                try:
                    request = _request(call, self.address.url, self._headers, clock, self._given)
                    # An httpx of other insides counts silence only: what drips is none.
                    async with asyncio.timeout(clock.left_s):
                        response = await self._send(request)
                except (*HTTPX_ERRORS, TimeoutError) as exc:
                    raise clock.translate(exc) from exc
                try:
                    clock.begin_answer(response)
                    yield response, clock
                finally:
                    with contextlib.suppress(*HTTPX_ERRORS):
                        await response.aclose()
        except DaemonError as error:
            clock.place(error)
            raise

    @contextlib.asynccontextmanager
    async def _turn(self, clock: Clock) -> AsyncIterator[None]:
        """As :meth:`Transport._turn`."""
        turns = self._turns
        if turns is None or clock.call.patience == "beside":
            yield
            return
        try:
            async with asyncio.timeout(clock.left_s):
                await turns.acquire()
        except TimeoutError as exc:
            raise clock.translate(exc) from exc
        try:
            yield
        finally:
            turns.release()

    def _check_loop(self) -> None:
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:
            raise ConfigError(
                "this client was used in another event loop, to which its connections belong",
                hint="make a client within each asyncio.run",
            )


async def close_all(close: Callable[[], Awaitable[None]]) -> None:
    """Close all connections of a client, although its task is cancelled meanwhile.

    httpcore closes one after the other: all behind the one that it is at would stay open.

    Args:
        close: Of httpx.
    """
    closing = asyncio.ensure_future(close())
    try:
        await asyncio.shield(closing)
    except asyncio.CancelledError:
        await closing
        raise


def _prepared(given: Mapping[str, str]) -> httpx.Headers:
    """What every request carries; to set a header on each would cost more than to send it."""
    found = httpx.Headers({"Accept": "*/*", "User-Agent": "ollama-bridge"})
    found.update(given)
    found.update({"Accept-Encoding": "identity", "Content-Type": "application/json"})
    return found


def _refuse(_: httpx.Request) -> NoReturn:
    raise ConfigError("this client is closed", hint="make a new one")


def _request(
    call: Call,
    base_url: str,
    headers: httpx.Headers,
    clock: Clock,
    given: httpx.Client | httpx.AsyncClient | None,
) -> httpx.Request:
    """What httpx sends. Its own way of building one costs as much as all the rest of a request."""
    if call.headers:
        headers = headers.copy()
        headers.update(call.headers)
    # Only a client that we were given may have cookies and parameters of its own.
    has_own = given is not None and (given.cookies or given.params)
    build = given.build_request if given is not None and has_own else httpx.Request
    return build(
        call.method,
        _url(base_url + call.path),
        headers=headers,
        content=call.content if call.json is None else encode_body(call.json),
        extensions={"timeout": clock.before_answer},
    )


@lru_cache(maxsize=256)
def _url(text: str) -> httpx.URL:
    return httpx.URL(text)


def _may_need_proxy(address: Address) -> bool:
    # A proxy between us and our own machine breaks more than it helps.
    return not address.loopback


def _needs_certificates(address: Address) -> bool:
    # Over https they are always checked; to load them for plain http takes 0.1 s for nothing.
    return address.url.startswith("https:")
