"""The only code that speaks HTTP to a daemon: time limits, and errors of our own tree.

One limit a phase, all finite. The daemon sends its headers with the first token, so waiting for
headers is loading and reading the prompt; afterwards a limit holds between any two pieces. The
limit of a whole call is looked at whenever something comes, so silence at its end may overrun it
by one such limit.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx

from ollama_bridge.client.address import Address
from ollama_bridge.client.exchange import Answer, Call, Timeouts, check_status, decode
from ollama_bridge.client.requests import encode_body
from ollama_bridge.errors import (
    DaemonError,
    DaemonTimeoutError,
    DaemonUnreachableError,
    ReplyInvalidError,
    StreamBrokenError,
    TimeoutPhase,
)


class _Clock:
    """The limits of one call, and what a breach of them is called."""

    def __init__(self, call: Call, address: Address, timeouts: Timeouts) -> None:
        self.call = call
        self._address = address
        self._timeouts = timeouts
        self._start_s = time.monotonic()
        self.answering = False

    @property
    def before_answer(self) -> dict[str, float]:
        """Limits for sending the request and for the beginning of its answer."""
        connect_s = self._timeouts.connect_s
        wait_s = min(self._silence[1], self._timeouts.total_s)
        return {"connect": connect_s, "read": wait_s, "write": wait_s, "pool": connect_s}

    def begin_answer(self, response: httpx.Response) -> None:
        """From now on the limit between two pieces holds."""
        self.answering = True
        # httpcore reads this dictionary once more, when it begins to read the body.
        timeout = response.request.extensions.get("timeout")
        if isinstance(timeout, dict):
            timeout["read"] = max(0.001, min(self._silence[1], self._left_s))

    def check_total(self) -> None:
        """Raise once the whole call has taken too long."""
        if self._left_s <= 0:
            raise self._timeout("total", self._timeouts.total_s)

    def translate(self, exc: Exception) -> DaemonError:
        """The error of ours for one of httpx."""
        if isinstance(exc, httpx.ConnectTimeout | httpx.PoolTimeout):
            return self._timeout("connect", self._timeouts.connect_s)
        if isinstance(exc, httpx.TimeoutException):
            if self._left_s <= 0.01:  # a timer may fire a little early
                return self._timeout("total", self._timeouts.total_s)
            return self._timeout(*self._silence)
        if isinstance(exc, httpx.DecodingError | httpx.TooManyRedirects):
            return ReplyInvalidError(
                f"the daemon's answer cannot be read: {_reason(exc)}", model=self.call.model
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
        return self._timeouts.total_s - (time.monotonic() - self._start_s)

    @property
    def _silence(self) -> tuple[TimeoutPhase, float]:
        """The longest silence that is allowed now, and the phase that it belongs to."""
        limits = self._timeouts
        patience = self.call.patience
        if patience == "files" or (patience == "model" and not self.answering):
            phase: TimeoutPhase = "load" if limits.load_s > 0 else "first_token"
            return phase, limits.load_s + limits.first_token_s
        if not self.answering and limits.first_token_s < limits.between_tokens_s:
            return "first_token", limits.first_token_s
        return "between_tokens", limits.between_tokens_s

    def _timeout(self, phase: TimeoutPhase, limit_s: float) -> DaemonTimeoutError:
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
            base_url=address.url,
            headers=address.headers,
            trust_env=_trusts_environment(address),
            verify=_needs_certificates(address),
            follow_redirects=False,
            transport=transport,
        )

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def request(self, call: Call) -> Answer:
        """A whole reply, whatever its status.

        Raises:
            DaemonError: no answer, a limit, a broken connection.
        """
        clock = _Clock(call, self.address, self._timeouts)
        with self._open(call, clock) as response:
            return Answer(response.status_code, b"".join(_pieces(response, clock)))

    def json(self, call: Call) -> Any:
        """The JSON of a reply.

        Raises:
            DaemonError: no answer, an error status, or no JSON.
        """
        answer = self.request(call)
        check_status(answer, call)
        return decode(answer.body, call)

    @contextlib.contextmanager
    def stream(self, call: Call) -> Iterator[Iterator[bytes]]:
        """The pieces of a reply as they come.

        Raises:
            DaemonError: no answer, an error status, a limit, a broken connection.
        """
        clock = _Clock(call, self.address, self._timeouts)
        with self._open(call, clock) as response:
            pieces = _pieces(response, clock)
            if not response.is_success:
                check_status(Answer(response.status_code, b"".join(pieces)), call)
            yield pieces

    @contextlib.contextmanager
    def _open(self, call: Call, clock: _Clock) -> Iterator[httpx.Response]:
        with _translated(clock):
            request = self._http.build_request(**_parts(call))
            request.extensions["timeout"] = clock.before_answer
            response = self._http.send(request, stream=True)
        try:
            clock.begin_answer(response)
            yield response
        finally:
            with contextlib.suppress(*HTTPX_ERRORS):
                response.close()


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
            base_url=address.url,
            headers=address.headers,
            trust_env=_trusts_environment(address),
            verify=_needs_certificates(address),
            follow_redirects=False,
            transport=transport,
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def request(self, call: Call) -> Answer:
        """A whole reply, whatever its status; see :meth:`Transport.request`."""
        clock = _Clock(call, self.address, self._timeouts)
        async with self._open(call, clock) as response:
            pieces = [piece async for piece in _pieces_async(response, clock)]
            return Answer(response.status_code, b"".join(pieces))

    async def json(self, call: Call) -> Any:
        """The JSON of a reply; see :meth:`Transport.json`."""
        answer = await self.request(call)
        check_status(answer, call)
        return decode(answer.body, call)

    @contextlib.asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[AsyncIterator[bytes]]:
        """The pieces of a reply as they come; see :meth:`Transport.stream`."""
        clock = _Clock(call, self.address, self._timeouts)
        async with self._open(call, clock) as response:
            pieces = _pieces_async(response, clock)
            if not response.is_success:
                body = b"".join([piece async for piece in pieces])
                check_status(Answer(response.status_code, body), call)
            yield pieces

    @contextlib.asynccontextmanager
    async def _open(self, call: Call, clock: _Clock) -> AsyncIterator[httpx.Response]:
        with _translated(clock):
            request = self._http.build_request(**_parts(call))
            request.extensions["timeout"] = clock.before_answer
            response = await self._http.send(request, stream=True)
        try:
            clock.begin_answer(response)
            yield response
        finally:
            with contextlib.suppress(*HTTPX_ERRORS):
                await response.aclose()


def _pieces(response: httpx.Response, clock: _Clock) -> Iterator[bytes]:
    pieces = response.iter_bytes()
    while True:
        with _translated(clock):
            piece = next(pieces, None)
        if piece is None:
            return
        clock.check_total()
        yield piece


async def _pieces_async(response: httpx.Response, clock: _Clock) -> AsyncIterator[bytes]:
    pieces = response.aiter_bytes()
    while True:
        with _translated(clock):
            piece = await anext(pieces, None)
        if piece is None:
            return
        clock.check_total()
        yield piece


def _parts(call: Call) -> dict[str, Any]:
    """What httpx builds a request of."""
    headers = {"Accept-Encoding": "identity", **(call.headers or {})}
    parts = {"method": call.method, "url": call.path, "headers": headers}
    if call.json is None:
        return {**parts, "content": call.content}
    headers["Content-Type"] = "application/json"
    return {**parts, "content": encode_body(call.json)}


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


def _reason(exc: Exception) -> str:
    return str(exc) or type(exc).__name__
