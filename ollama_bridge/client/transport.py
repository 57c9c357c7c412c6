"""The only code that speaks HTTP to a daemon."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx

from ollama_bridge.client.address import Address
from ollama_bridge.client.clock import HTTPX_ERRORS, Clock
from ollama_bridge.client.exchange import Answer, Call, Timeouts, check_status, decode
from ollama_bridge.client.lines import LineSplitter
from ollama_bridge.client.requests import encode_body
from ollama_bridge.errors import DaemonError


class Transport:
    """Blocking requests.

    Args:
        address: Of the daemon.
        timeouts: Of every request.
        transport: Where requests go instead of the network.
        http: Sends them, with its own headers; None: one is made.
    """

    def __init__(
        self,
        address: Address,
        timeouts: Timeouts,
        transport: httpx.BaseTransport | None = None,
        *,
        http: httpx.Client | None = None,
    ) -> None:
        self.address = address
        self._timeouts = timeouts
        self._http = http or httpx.Client(
            headers=address.headers,
            trust_env=_trusts_environment(address),
            verify=_needs_certificates(address),
            follow_redirects=False,
            transport=transport,
        )
        self._headers = _prepared(self._http.headers)

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def request(self, call: Call, ends_s: float | None = None) -> Answer:
        """A whole reply, whatever its status.

        Args:
            call: What is sent.
            ends_s: When it has to be done, by the monotonic clock; None: by ``total_s``.

        Raises:
            DaemonError: no answer, a limit, a broken connection.
        """
        with self._open(call, ends_s) as (response, clock):
            return Answer(response.status_code, _whole(response, clock))

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
                check_status(Answer(response.status_code, _whole(response, clock)), call)
            yield _lines(response, clock)

    @contextlib.contextmanager
    def _open(self, call: Call, ends_s: float | None) -> Iterator[tuple[httpx.Response, Clock]]:
        clock = Clock(call, self.address, self._timeouts, ends_s)
        try:
            with _translated(clock):
                request = _request(call, self.address.url, self._headers, clock)
                response = self._http.send(request, stream=True)
            try:
                clock.begin_answer(response)
                yield response, clock
            finally:
                with contextlib.suppress(*HTTPX_ERRORS):
                    response.close()
        except DaemonError as error:
            clock.place(error)
            raise


class AsyncTransport:
    """The same without blocking."""

    def __init__(
        self,
        address: Address,
        timeouts: Timeouts,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        self.address = address
        self._timeouts = timeouts
        self._http = http or httpx.AsyncClient(
            headers=address.headers,
            trust_env=_trusts_environment(address),
            verify=_needs_certificates(address),
            follow_redirects=False,
            transport=transport,
        )
        self._headers = _prepared(self._http.headers)

    async def close(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def request(self, call: Call, ends_s: float | None = None) -> Answer:
        """A whole reply, whatever its status; see :meth:`Transport.request`."""
        async with self._open(call, ends_s) as (response, clock):
            return Answer(response.status_code, await _whole_async(response, clock))

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
                    Answer(response.status_code, await _whole_async(response, clock)), call
                )
            yield _lines_async(response, clock)

    @contextlib.asynccontextmanager
    async def _open(
        self, call: Call, ends_s: float | None
    ) -> AsyncIterator[tuple[httpx.Response, Clock]]:
        clock = Clock(call, self.address, self._timeouts, ends_s)
        try:
            with _translated(clock):
                request = _request(call, self.address.url, self._headers, clock)
                response = await self._http.send(request, stream=True)
            try:
                clock.begin_answer(response)
                yield response, clock
            finally:
                with contextlib.suppress(*HTTPX_ERRORS):
                    await response.aclose()
        except DaemonError as error:
            clock.place(error)
            raise


def _pieces(response: httpx.Response, clock: Clock) -> Iterator[bytes]:
    pieces = response.iter_bytes()
    while True:
        try:
            piece = next(pieces, None)
        except HTTPX_ERRORS as exc:
            raise clock.translate(exc) from exc
        if piece is None:
            return
        yield piece


async def _pieces_async(response: httpx.Response, clock: Clock) -> AsyncIterator[bytes]:
    pieces = response.aiter_bytes()
    while True:
        try:
            piece = await anext(pieces, None)
        except HTTPX_ERRORS as exc:
            raise clock.translate(exc) from exc
        if piece is None:
            return
        yield piece


def _whole(response: httpx.Response, clock: Clock) -> bytes:
    found = []
    for piece in _pieces(response, clock):
        clock.check(has_lines=False)
        found.append(piece)
    return b"".join(found)


async def _whole_async(response: httpx.Response, clock: Clock) -> bytes:
    found = []
    async for piece in _pieces_async(response, clock):
        clock.check(has_lines=False)
        found.append(piece)
    return b"".join(found)


def _lines(response: httpx.Response, clock: Clock) -> Iterator[bytes]:
    splitter = LineSplitter()
    for piece in _pieces(response, clock):
        lines = splitter.feed(piece)
        clock.check(has_lines=bool(lines))
        yield from lines
    yield from splitter.finish()


async def _lines_async(response: httpx.Response, clock: Clock) -> AsyncIterator[bytes]:
    splitter = LineSplitter()
    async for piece in _pieces_async(response, clock):
        lines = splitter.feed(piece)
        clock.check(has_lines=bool(lines))
        for line in lines:
            yield line
    for line in splitter.finish():
        yield line


def _prepared(headers: httpx.Headers) -> httpx.Headers:
    """What every request carries; to set a header on each would cost more than to send it."""
    found = headers.copy()
    found.update({"Accept-Encoding": "identity", "Content-Type": "application/json"})
    return found


def _request(call: Call, base_url: str, headers: httpx.Headers, clock: Clock) -> httpx.Request:
    """What httpx sends. Its own way of building one costs as much as all the rest of a request."""
    if call.headers:
        headers = headers.copy()
        headers.update(call.headers)
    return httpx.Request(
        call.method,
        _url(base_url + call.path),
        headers=headers,
        content=call.content if call.json is None else encode_body(call.json),
        extensions={"timeout": clock.before_answer},
    )


@functools.lru_cache(maxsize=256)
def _url(text: str) -> httpx.URL:
    return httpx.URL(text)


def _trusts_environment(address: Address) -> bool:
    # A proxy between us and our own machine breaks more than it helps.
    return not address.loopback


def _needs_certificates(address: Address) -> bool:
    # Over https they are always checked; to load them for plain http takes 0.1 s for nothing.
    return address.url.startswith("https:")


@contextlib.contextmanager
def _translated(clock: Clock) -> Iterator[None]:
    try:
        yield
    except HTTPX_ERRORS as exc:
        raise clock.translate(exc) from exc
