"""The only code that speaks HTTP to a daemon: time limits, and errors of our own tree.

One limit a phase, all finite. The daemon sends its headers with the first token, so waiting for
headers is loading and reading the prompt; afterwards a limit holds between any two lines, however
many bytes drip in meanwhile. The limit of a whole call is looked at whenever something comes, so
silence at its end may overrun it by one such limit.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx

from ollama_bridge.client.address import Address
from ollama_bridge.client.exchange import Answer, Call, Timeouts, check_status, decode
from ollama_bridge.client.lines import LineSplitter
from ollama_bridge.client.refusals import CHECK_ADDRESS
from ollama_bridge.client.requests import encode_body
from ollama_bridge.errors import (
    CallPhase,
    DaemonError,
    DaemonTimeoutError,
    DaemonUnreachableError,
    ReplyInvalidError,
    StreamBrokenError,
)


class _Clock:
    """The limits of one call, and what a breach of them is called.

    Args:
        call: What is sent.
        address: To whom.
        timeouts: The limits.
        ends_s: When the whole has to be done, by the monotonic clock; None: counted from now.
    """

    def __init__(
        self, call: Call, address: Address, timeouts: Timeouts, ends_s: float | None = None
    ) -> None:
        self.call = call
        self._address = address
        self._timeouts = timeouts
        now_s = time.monotonic()
        self._ends_s = now_s + timeouts.total_s if ends_s is None else ends_s
        self._last_line_s = now_s
        self._line_limit_s = math.inf
        self.answering = False

    @property
    def before_answer(self) -> dict[str, float]:
        """Limits for sending the request and for the beginning of its answer."""
        left_s = max(0.001, self._left_s)
        wait_s = min(self._silence[1], left_s)
        # Waiting for a connection of our own is no fault of the daemon's.
        connect_s = min(self._timeouts.connect_s, left_s)
        return {"connect": connect_s, "read": wait_s, "write": wait_s, "pool": left_s}

    def begin_answer(self, response: httpx.Response) -> None:
        """From now on the limit between two pieces holds."""
        self.answering = True
        self._last_line_s = time.monotonic()
        if self.call.patience != "files":
            self._line_limit_s = self._silence[1]
        # httpcore reads this dictionary once more, when it begins to read the body.
        timeout = response.request.extensions.get("timeout")
        if isinstance(timeout, dict):
            timeout["read"] = max(0.001, min(self._silence[1], self._left_s))

    def check(self) -> None:
        """Raise once the whole call, or the line that is not complete yet, has taken too long."""
        now_s = time.monotonic()
        if now_s >= self._ends_s:
            raise self._timeout("total", self._timeouts.total_s)
        if now_s - self._last_line_s > self._line_limit_s:
            raise self._timeout(*self._silence)

    def next_line(self) -> None:
        """Whoever reads the answer wants another line from now on."""
        self._last_line_s = time.monotonic()

    def place(self, error: DaemonError) -> None:
        """Say in which phase something failed."""
        error.phase = error.phase or ("connect" if _is_no_connection(error) else self._silence[0])

    def translate(self, exc: Exception) -> DaemonError:
        """The error of ours for one of httpx."""
        if isinstance(exc, httpx.TimeoutException):
            if self._left_s <= 0.01:  # a timer may fire a little early
                return self._timeout("total", self._timeouts.total_s)
            if isinstance(exc, httpx.ConnectTimeout):
                return self._timeout("connect", self._timeouts.connect_s)
            return self._timeout(*self._silence)
        if isinstance(exc, httpx.DecodingError | httpx.TooManyRedirects):
            return ReplyInvalidError(
                f"the daemon's answer cannot be read: {_reason(exc)}",
                hint=CHECK_ADDRESS,
                model=self.call.model,
            )
        if self.answering and isinstance(exc, httpx.TransportError | httpx.StreamError):
            return StreamBrokenError(
                f"the connection to the daemon broke in mid-answer: {_reason(exc)}",
                hint="ask again; if it goes on: ollama-bridge doctor",
                model=self.call.model,
            )
        return DaemonUnreachableError(
            f"no daemon answers at {self._address.url}: {_reason(exc)}",
            hint="ollama-bridge daemon start   (or: ollama serve)",
            model=self.call.model,
        )

    @property
    def _left_s(self) -> float:
        return self._ends_s - time.monotonic()

    @property
    def _silence(self) -> tuple[CallPhase, float]:
        """The longest silence that is allowed now, and the phase that it belongs to."""
        limits = self._timeouts
        patience = self.call.patience
        if patience == "files" or (patience == "model" and not self.answering):
            phase: CallPhase = "load" if limits.load_s > 0 else "first_token"
            return phase, limits.load_s + limits.first_token_s
        if not self.answering and limits.first_token_s < limits.between_tokens_s:
            return "first_token", limits.first_token_s
        return "between_tokens", limits.between_tokens_s

    def _timeout(self, phase: CallPhase, limit_s: float) -> DaemonTimeoutError:
        waited = {
            "connect": "accepted no connection",
            "total": "was not done",
        }.get(phase, "said nothing more" if self.answering else "gave no answer")
        return DaemonTimeoutError(
            f"the daemon at {self._address.url} {waited} within {limit_s:g} s ({self.call.path})",
            phase=phase,
            limit_s=limit_s,
            hint="look whether it is busy (ollama-bridge ls, ollama ps), or raise "
            f"Timeouts({phase}_s=...)",
            model=self.call.model,
        )


# Everything that httpx raises; a test enumerates them.
HTTPX_ERRORS = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, httpx.CookieConflict)


class Transport:
    """Blocking requests."""

    def __init__(
        self, address: Address, timeouts: Timeouts, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.address = address
        self._timeouts = timeouts
        self._http = httpx.Client(
            headers=address.headers,
            trust_env=_trusts_environment(address),
            verify=_needs_certificates(address),
            follow_redirects=False,
            transport=transport,
        )

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
            return Answer(response.status_code, b"".join(_pieces(response, clock)))

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
            pieces = _pieces(response, clock)
            if not response.is_success:
                check_status(Answer(response.status_code, b"".join(pieces)), call)
            yield _lines(pieces, clock)

    @contextlib.contextmanager
    def _open(self, call: Call, ends_s: float | None) -> Iterator[tuple[httpx.Response, _Clock]]:
        clock = _Clock(call, self.address, self._timeouts, ends_s)
        try:
            with _translated(clock):
                request = _request(call, self.address.url, self._http.headers, clock)
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
    ) -> None:
        self.address = address
        self._timeouts = timeouts
        self._http = httpx.AsyncClient(
            headers=address.headers,
            trust_env=_trusts_environment(address),
            verify=_needs_certificates(address),
            follow_redirects=False,
            transport=transport,
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def request(self, call: Call, ends_s: float | None = None) -> Answer:
        """A whole reply, whatever its status; see :meth:`Transport.request`."""
        async with self._open(call, ends_s) as (response, clock):
            pieces = [piece async for piece in _pieces_async(response, clock)]
            return Answer(response.status_code, b"".join(pieces))

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
            pieces = _pieces_async(response, clock)
            if not response.is_success:
                body = b"".join([piece async for piece in pieces])
                check_status(Answer(response.status_code, body), call)
            yield _lines_async(pieces, clock)

    @contextlib.asynccontextmanager
    async def _open(
        self, call: Call, ends_s: float | None
    ) -> AsyncIterator[tuple[httpx.Response, _Clock]]:
        clock = _Clock(call, self.address, self._timeouts, ends_s)
        try:
            with _translated(clock):
                request = _request(call, self.address.url, self._http.headers, clock)
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


def _pieces(response: httpx.Response, clock: _Clock) -> Iterator[bytes]:
    pieces = response.iter_bytes()
    while True:
        try:
            piece = next(pieces, None)
        except HTTPX_ERRORS as exc:
            raise clock.translate(exc) from exc
        if piece is None:
            return
        clock.check()
        yield piece


async def _pieces_async(response: httpx.Response, clock: _Clock) -> AsyncIterator[bytes]:
    pieces = response.aiter_bytes()
    while True:
        try:
            piece = await anext(pieces, None)
        except HTTPX_ERRORS as exc:
            raise clock.translate(exc) from exc
        if piece is None:
            return
        clock.check()
        yield piece


def _lines(pieces: Iterator[bytes], clock: _Clock) -> Iterator[bytes]:
    splitter = LineSplitter()
    for piece in pieces:
        if lines := splitter.feed(piece):
            yield from lines
            clock.next_line()
    yield from splitter.finish()


async def _lines_async(pieces: AsyncIterator[bytes], clock: _Clock) -> AsyncIterator[bytes]:
    splitter = LineSplitter()
    async for piece in pieces:
        if lines := splitter.feed(piece):
            for line in lines:
                yield line
            clock.next_line()
    for line in splitter.finish():
        yield line


def _request(call: Call, base_url: str, headers: httpx.Headers, clock: _Clock) -> httpx.Request:
    """What httpx sends. Its own way of building one costs as much as all the rest of a request."""
    headers = headers.copy()
    headers["Accept-Encoding"] = "identity"
    headers.update(call.headers)
    content = call.content
    if call.json is not None:
        headers["Content-Type"] = "application/json"
        content = encode_body(call.json)
    return httpx.Request(
        call.method,
        _url(base_url + call.path),
        headers=headers,
        content=content,
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
def _translated(clock: _Clock) -> Iterator[None]:
    try:
        yield
    except HTTPX_ERRORS as exc:
        raise clock.translate(exc) from exc


def _is_no_connection(error: DaemonError) -> bool:
    return isinstance(error.__cause__, httpx.ConnectError)


def _reason(exc: Exception) -> str:
    return str(exc) or type(exc).__name__
