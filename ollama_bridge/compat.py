"""``ollama.Client`` and ``ollama.AsyncClient`` with the guarantees of ours: a drop-in.

Write ``from ollama_bridge import compat as ollama`` and nothing else changes: the same methods,
arguments and return types (they are ollama-python's own), the same exceptions to catch. What does
change: limits of time that are all finite; a question that failed in passing is asked again; a
prompt that does not fit is an error that says by how much, instead of half a prompt; a context
shorter than the ``num_ctx`` that was asked for is an error, and so are a level of thinking that the
model lacks, and an answer or a ``pull`` that ends without its last event; no redirect takes a key
elsewhere; and no error of httpx or json comes through but those of ``web_search`` and
``web_fetch``, which go to ollama.com. An option that the daemon would ignore is a ``ConfigError``
of ours, before anything is sent.

Other than in our own client, since callers rely on it: without ``num_predict`` an answer is as long
as it gets, within the limit of the whole call; parts are handed on as the daemon splits them, so a
thought that it does not split off stays in the text; and what broke off is not continued.

Only the two methods that ollama-python sends everything through are replaced; their arguments, and
httpx's of the constructor, are handed on as they come.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NoReturn

import httpx
import ollama
from ollama import ResponseError

from ollama_bridge.client.answers.demands import Known
from ollama_bridge.client.answers.raw_answering import RawAnswering, joined
from ollama_bridge.client.asides import look_at_context, look_at_level
from ollama_bridge.client.embedding import pieces
from ollama_bridge.client.foreign_calls import QUESTIONS, TRANSFERS, UNSTREAMED, call_of
from ollama_bridge.client.measuring import measure
from ollama_bridge.client.steps import Fetch, Fetching, Pause, fetch, fetch_async
from ollama_bridge.client.wire.address import read_address
from ollama_bridge.client.wire.exchange import Call, Timeouts, check_status
from ollama_bridge.client.wire.given import retries_given, timeouts_given
from ollama_bridge.client.wire.httpx_arguments import kept_safe, timeouts_of, unbounded
from ollama_bridge.client.wire.lines import parse_line
from ollama_bridge.client.wire.retries import Attempts, Retries
from ollama_bridge.client.wire.transport import AsyncTransport, Transport, close_all
from ollama_bridge.errors import (
    DaemonError,
    DaemonUnreachableError,
    ReplyInvalidError,
    RequestRejectedError,
    StreamBrokenError,
)

__all__ = ["AsyncClient", "BridgeConnectionError", "BridgeResponseError", "Client"]

_COUNTS = ("total_duration", "load_duration", "prompt_eval_count")  # of embeddings


class BridgeResponseError(ResponseError):
    """What users of ollama-python catch; the error of ours is ``__cause__``.

    Attributes:
        hint: What to do about it.
        partial_text: What had come of the answer.
        partial_thinking: Likewise.
    """

    def __init__(self, error: DaemonError) -> None:
        status = error.status_code if isinstance(error, RequestRejectedError) else -1
        super().__init__(error.message, status)
        self.hint = error.hint
        self.partial_text = error.partial_text
        self.partial_thinking = error.partial_thinking


class BridgeConnectionError(ConnectionError):
    """Nothing answers at the daemon's address; the error of ours is ``__cause__``."""


class Client(ollama.Client):
    """``ollama.Client``; see the module's text for what is better.

    Args:
        host: As there.
        timeouts: One limit a phase; None: ``timeout`` of httpx where it is given, else the
            defaults.
        retries: How often a question is asked that failed in passing; ``resume`` means nothing.
        kwargs: Of httpx's client, as there; redirects are not followed unless asked for.
    """

    def __init__(
        self,
        host: str | None = None,
        *,
        timeouts: Timeouts | None = None,
        retries: Retries | None = None,
        **kwargs: Any,
    ) -> None:
        self._address = read_address(host)
        given, self._at_once = unbounded(kwargs)
        self._given = (host, kept_safe(given, daemon=self._address))
        # For ollama.com, which proxies may stand before; None: by the same client.
        keeps = "transport" in kwargs or not self._address.loopback
        self._elsewhere = None if keeps else (host, dict(kwargs))
        if timeouts is None:
            timeouts = timeouts_of(kwargs.get("timeout"))
        self._limits = timeouts_given(timeouts)
        self._retries = retries_given(retries)
        self._known = Known()
        self._connect()

    def _connect(self) -> None:
        """Begin without connections."""
        self._process_id = os.getpid()
        host, given = self._given
        super().__init__(host, **given)
        self._own = Transport(self._address, self._limits, http=self._client, at_once=self._at_once)

    @property
    def _transport(self) -> Transport:
        """Of this process: a forked one would get the answers of the other, and it of this."""
        if os.getpid() != self._process_id and not self._client.is_closed:
            self._connect()
        return self._own

    def _request(self, cls: Any, *args: Any, stream: bool = False, **kwargs: Any) -> Any:
        call = call_of(*args, **kwargs)
        if call is None:  # not the daemon's: ollama.com's search
            if self._elsewhere is None:
                return super()._request(cls, *args, stream=stream, **kwargs)
            host, given = self._elsewhere
            with ollama.Client(host, **kept_safe(given)) as client:
                return client._request(cls, *args, stream=stream, **kwargs)
        if call.path in QUESTIONS:
            answering = RawAnswering(call, self._limits, self._retries, gives_out=stream)
            parts = self._answer(call, answering)
            if stream:
                return (_typed(cls, part) for part in parts)
            for _ in parts:
                pass
            return _whole(cls, answering.came)
        if call.path in TRANSFERS:
            parts = self._transfer(call)
            if stream:
                return (_typed(cls, part) for part in parts)
            return _whole(cls, list(parts))
        with _told():
            if call.path in UNSTREAMED:
                asked = [_asked(one, self._limits, self._retries) for one in pieces(call)]
                return _together([_typed(cls, fetch(self._transport, one)) for one in asked])
            found = self._transport.json(call)
        return _typed(cls, found)

    def _request_raw(self, *args: Any, **kwargs: Any) -> Any:
        call = call_of(*args, **kwargs)
        if call is None:
            return super()._request_raw(*args, **kwargs)  # type: ignore[no-untyped-call]
        try:
            with _told():
                answer = self._transport.request(call)
                check_status(answer, call)
        finally:
            self._known.clear()  # it may have copied or deleted one
        return httpx.Response(answer.status_code, content=answer.body)

    def _answer(self, call: Call, answering: RawAnswering) -> Generator[dict[str, Any], None, None]:
        with _told():
            fetch(self._transport, look_at_level(call, self._known, answering.ends_s))
            while not answering.is_over:
                try:
                    with self._transport.lines(call, answering.ends_s) as lines:
                        for line in lines:
                            part = answering.feed(line)
                            if answering.unchecked_context is not None:
                                fetch(self._transport, look_at_context(answering, self._known))
                            yield part
                    answering.finish()
                except DaemonError as error:
                    fetch(self._transport, measure(error, call, answering.ends_s))
                    time.sleep(answering.recover(error))

    def _transfer(self, call: Call) -> Generator[dict[str, Any], None, None]:
        try:
            with _told(), self._transport.lines(call) as lines:
                part: dict[str, Any] = {}
                for line in lines:
                    part = parse_line(line, model=call.model)
                    yield part
                _check_end(part, call)
        finally:
            self._known.clear()  # what was looked at meanwhile, too


class AsyncClient(ollama.AsyncClient):
    """``ollama.AsyncClient``; arguments as for :class:`Client`."""

    def __init__(
        self,
        host: str | None = None,
        *,
        timeouts: Timeouts | None = None,
        retries: Retries | None = None,
        **kwargs: Any,
    ) -> None:
        address = read_address(host)
        given, at_once = unbounded(kwargs)
        super().__init__(host, **kept_safe(given, daemon=address))
        # For ollama.com, which proxies may stand before; None: by the same client.
        keeps = "transport" in kwargs or not address.loopback
        self._elsewhere = None if keeps else (host, dict(kwargs))
        if timeouts is None:
            timeouts = timeouts_of(kwargs.get("timeout"))
        self._limits = timeouts_given(timeouts)
        self._retries = retries_given(retries)
        self._known = Known()
        self._transport = AsyncTransport(address, self._limits, http=self._client, at_once=at_once)

    async def close(self):  # type: ignore[no-untyped-def]  # the signature is ollama's
        """Close every connection, although it is cancelled meanwhile."""
        await close_all(self._client.aclose)

    async def _request(self, cls: Any, *args: Any, stream: bool = False, **kwargs: Any) -> Any:
        call = call_of(*args, **kwargs)
        if call is None:
            if self._elsewhere is None:
                return await super()._request(cls, *args, stream=stream, **kwargs)
            host, given = self._elsewhere
            async with ollama.AsyncClient(host, **kept_safe(given)) as client:
                return await client._request(cls, *args, stream=stream, **kwargs)
        if call.path in QUESTIONS:
            answering = RawAnswering(call, self._limits, self._retries, gives_out=stream)
            parts = self._answer(call, answering)
            if stream:
                return (_typed(cls, part) async for part in parts)
            async for _ in parts:
                pass
            return _whole(cls, answering.came)
        if call.path in TRANSFERS:
            parts = self._transfer(call)
            if stream:
                return (_typed(cls, part) async for part in parts)
            return _whole(cls, [part async for part in parts])
        with _told():
            if call.path in UNSTREAMED:
                asked = [_asked(one, self._limits, self._retries) for one in pieces(call)]
                return _together(
                    [_typed(cls, await fetch_async(self._transport, one)) for one in asked]
                )
            found = await self._transport.json(call)
        return _typed(cls, found)

    async def _request_raw(self, *args: Any, **kwargs: Any) -> Any:
        call = call_of(*args, **kwargs)
        if call is None:
            return await super()._request_raw(*args, **kwargs)  # type: ignore[no-untyped-call]
        try:
            with _told():
                answer = await self._transport.request(call)
                check_status(answer, call)
        finally:
            self._known.clear()  # it may have copied or deleted one
        return httpx.Response(answer.status_code, content=answer.body)

    async def _answer(
        self, call: Call, answering: RawAnswering
    ) -> AsyncGenerator[dict[str, Any], None]:
        with _told():
            await fetch_async(self._transport, look_at_level(call, self._known, answering.ends_s))
            while not answering.is_over:
                try:
                    async with self._transport.lines(call, answering.ends_s) as lines:
                        async for line in lines:
                            part = answering.feed(line)
                            if answering.unchecked_context is not None:
                                await fetch_async(
                                    self._transport, look_at_context(answering, self._known)
                                )
                            yield part
                    answering.finish()
                except DaemonError as error:
                    await fetch_async(self._transport, measure(error, call, answering.ends_s))
                    await asyncio.sleep(answering.recover(error))

    async def _transfer(self, call: Call) -> AsyncGenerator[dict[str, Any], None]:
        try:
            with _told():
                async with self._transport.lines(call) as lines:
                    part: dict[str, Any] = {}
                    async for line in lines:
                        part = parse_line(line, model=call.model)
                        yield part
                    _check_end(part, call)
        finally:
            self._known.clear()  # what was looked at meanwhile, too


def _asked(call: Call, limits: Timeouts, retries: Retries) -> Fetching[Any]:
    """A question whose answer does not stream, asked again where it failed in passing."""
    attempts = Attempts(retries, limits.total_s)
    while True:
        try:
            return (yield Fetch(call, attempts.ends_s))
        except DaemonError as error:
            yield from measure(error, call, attempts.ends_s)
            yield Pause(attempts.next_pause_s(error))


def _whole(cls: Any, parts: Sequence[Mapping[str, Any]]) -> Any:
    """The reply that a stream amounts to, as a type of ollama-python's."""
    try:
        return cls(**joined(parts))
    except (TypeError, AttributeError, ValueError) as exc:
        _refuse(cls, exc)


def _typed(cls: Any, data: Any) -> Any:
    """A reply as the type of ollama-python's that it is there."""
    try:
        return cls(**data)
    except (TypeError, ValueError) as exc:  # pydantic's errors are ValueErrors
        _refuse(cls, exc)


def _together(parts: Sequence[Any]) -> Any:
    """Replies about texts that follow each other, as one."""
    first, *others = parts
    if not others:
        return first
    vectors = [vector for one in parts for vector in one.embeddings]
    told = [name for name in _COUNTS if getattr(first, name) is not None]
    sums = {name: sum(getattr(one, name) or 0 for one in parts) for name in told}
    return first.model_copy(update={"embeddings": vectors, **sums})


def _refuse(cls: Any, exc: Exception) -> NoReturn:
    with _told():
        raise ReplyInvalidError(
            f"the daemon's answer is not a valid {cls.__name__}: {exc}",
            hint="is it Ollama? ollama-bridge doctor",
        ) from exc


def _check_end(part: Mapping[str, Any], call: Call) -> None:
    if part.get("status") != "success":
        raise StreamBrokenError(
            f"{call.path} of {call.model!r} ended without its terminal event",
            hint="ask again; if it fails again, see the daemon's log",
            model=call.model,
        )


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Errors of ours as those that users of ollama-python catch."""
    try:
        yield
    except DaemonUnreachableError as error:
        raise BridgeConnectionError(f"{error.message} ({error.hint})") from error
    except DaemonError as error:
        raise BridgeResponseError(error) from error


@cache
def _default() -> Client:
    return Client()


def __getattr__(name: str) -> Any:
    """``chat``, ``generate``, ... of a default client; everything else is ollama's."""
    found = getattr(ollama, name)
    if callable(found) and getattr(found, "__self__", None) is not None:
        return getattr(_default(), name)
    return found
