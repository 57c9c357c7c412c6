"""``ollama.Client`` and ``ollama.AsyncClient`` with the guarantees of ours: a drop-in.

Write ``from ollama_bridge import compat as ollama`` and nothing else changes: the same methods,
arguments and return types (they are ollama-python's own), the same exceptions to catch. What does
change: limits of time that are all finite, a prompt that does not fit is an error instead of half
a prompt, an option that the daemon would ignore is an error, an answer or a ``pull`` that ends
without its last event is an error, no redirect takes a key elsewhere, and no error of httpx or
json comes through but those of ``web_search`` and ``web_fetch``, which go to ollama.com. An option
that the daemon would ignore is a ``ConfigError`` of ours, before anything is sent.

Only the two methods that ollama-python sends everything through are replaced; their arguments, and
httpx's of the constructor, are handed on as they come.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NoReturn

import httpx
import ollama
from ollama import ResponseError

from ollama_bridge.client.address import read_address
from ollama_bridge.client.exchange import Call, Patience, Timeouts, check_status
from ollama_bridge.client.lines import parse_line
from ollama_bridge.client.options import check_options
from ollama_bridge.client.transport import AsyncTransport, Transport
from ollama_bridge.errors import (
    DaemonError,
    DaemonUnreachableError,
    ReplyInvalidError,
    RequestRejectedError,
    StreamBrokenError,
)

__all__ = ["AsyncClient", "BridgeConnectionError", "BridgeResponseError", "Client"]

_QUESTIONS = ("/api/generate", "/api/chat")
_TRANSFERS = ("/api/pull", "/api/push", "/api/create")
_EMBEDDINGS = ("/api/embed", "/api/embeddings")


class BridgeResponseError(ResponseError):
    """What users of ollama-python catch; the error of ours is ``__cause__``.

    Attributes:
        hint: What to do about it.
        partial_text: What had come of the answer; of one that is streamed its reader has it.
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
        kwargs: Of httpx's client, as there; redirects are not followed unless asked for.
    """

    def __init__(
        self, host: str | None = None, *, timeouts: Timeouts | None = None, **kwargs: Any
    ) -> None:
        address = read_address(host)
        super().__init__(host, **_kept_safe(kwargs, trust_env=not address.loopback))
        # For ollama.com, which proxies may stand before; None: by the same client.
        keeps = "transport" in kwargs or not address.loopback
        self._elsewhere = None if keeps else (host, dict(kwargs))
        limits = timeouts or _limits(kwargs.get("timeout"))
        self._transport = Transport(address, limits, http=self._client)

    def _request(self, cls: Any, *args: Any, stream: bool = False, **kwargs: Any) -> Any:
        call = _call(*args, **kwargs)
        if call is None:  # not the daemon's: ollama.com's search
            if self._elsewhere is None:
                return super()._request(cls, *args, stream=stream, **kwargs)
            host, given = self._elsewhere
            with ollama.Client(host, **_kept_safe(given)) as client:
                return client._request(cls, *args, stream=stream, **kwargs)
        if call.path in _QUESTIONS + _TRANSFERS:
            parts = self._parts(call)
            if stream:
                return (_typed(cls, part) for part in parts)
            came: list[dict[str, Any]] = []
            with _keeping(came):
                for part in parts:
                    came.append(part)
            return _whole(cls, came)
        with _told():
            found = self._transport.json(call)
        return _typed(cls, found)

    def _request_raw(self, *args: Any, **kwargs: Any) -> Any:
        call = _call(*args, **kwargs)
        if call is None:
            return super()._request_raw(*args, **kwargs)  # type: ignore[no-untyped-call]
        with _told():
            answer = self._transport.request(call)
            check_status(answer, call)
        return httpx.Response(answer.status_code, content=answer.body)

    def _parts(self, call: Call) -> Generator[dict[str, Any], None, None]:
        with _told(), self._transport.lines(call) as lines:
            part: dict[str, Any] = {}
            for line in lines:
                part = parse_line(line, model=call.model)
                yield part
            _check_end(part, call)


class AsyncClient(ollama.AsyncClient):
    """``ollama.AsyncClient``; arguments as for :class:`Client`."""

    def __init__(
        self, host: str | None = None, *, timeouts: Timeouts | None = None, **kwargs: Any
    ) -> None:
        address = read_address(host)
        super().__init__(host, **_kept_safe(kwargs, trust_env=not address.loopback))
        # For ollama.com, which proxies may stand before; None: by the same client.
        keeps = "transport" in kwargs or not address.loopback
        self._elsewhere = None if keeps else (host, dict(kwargs))
        limits = timeouts or _limits(kwargs.get("timeout"))
        self._transport = AsyncTransport(address, limits, http=self._client)

    async def _request(self, cls: Any, *args: Any, stream: bool = False, **kwargs: Any) -> Any:
        call = _call(*args, **kwargs)
        if call is None:
            if self._elsewhere is None:
                return await super()._request(cls, *args, stream=stream, **kwargs)
            host, given = self._elsewhere
            async with ollama.AsyncClient(host, **_kept_safe(given)) as client:
                return await client._request(cls, *args, stream=stream, **kwargs)
        if call.path in _QUESTIONS + _TRANSFERS:
            parts = self._parts(call)
            if stream:
                return (_typed(cls, part) async for part in parts)
            came: list[dict[str, Any]] = []
            with _keeping(came):
                async for part in parts:
                    came.append(part)
            return _whole(cls, came)
        with _told():
            found = await self._transport.json(call)
        return _typed(cls, found)

    async def _request_raw(self, *args: Any, **kwargs: Any) -> Any:
        call = _call(*args, **kwargs)
        if call is None:
            return await super()._request_raw(*args, **kwargs)  # type: ignore[no-untyped-call]
        with _told():
            answer = await self._transport.request(call)
            check_status(answer, call)
        return httpx.Response(answer.status_code, content=answer.body)

    async def _parts(self, call: Call) -> AsyncGenerator[dict[str, Any], None]:
        with _told():
            async with self._transport.lines(call) as lines:
                part: dict[str, Any] = {}
                async for line in lines:
                    part = parse_line(line, model=call.model)
                    yield part
                _check_end(part, call)


def joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The reply that a stream amounts to: texts joined, lists chained, the rest of its last part.

    Args:
        parts: At least one.
    """
    whole = dict(parts[-1])
    for name in ("response", "thinking"):
        if any(part.get(name) for part in parts):
            whole[name] = "".join(part.get(name) or "" for part in parts)
    messages = [part["message"] for part in parts if isinstance(part.get("message"), Mapping)]
    if messages:
        message = dict(messages[-1])
        for name in ("content", "thinking"):
            if any(one.get(name) for one in messages):
                message[name] = "".join(one.get(name) or "" for one in messages)
        calls = [call for one in messages for call in one.get("tool_calls") or ()]
        whole["message"] = message | ({"tool_calls": calls} if calls else {})
    logprobs = [entry for part in parts for entry in part.get("logprobs") or ()]
    return whole | ({"logprobs": logprobs} if logprobs else {})


def _call(method: str, path: str, **kwargs: Any) -> Call | None:
    """A request of ollama-python as one of ours; None: it goes to another server."""
    if not path.startswith("/"):
        return None
    body: dict[str, Any] | None = kwargs.get("json")
    patience: Patience = "reply"
    if path in _QUESTIONS and body is not None:
        # Inside it is always a stream: only so do the limits hold and is the end seen.
        body = {"truncate": False, "shift": False} | body | {"stream": True}
        if body.get("options"):
            body["options"] = _checked(body["options"])
        patience = "model"
    elif path in _TRANSFERS and body is not None:
        body = body | {"stream": True}
        patience = "files"
    elif path in _EMBEDDINGS and body is not None:
        body = {"truncate": False} | body
        if body.get("options"):
            body["options"] = _checked(body["options"])
        patience = "model"
    elif "content" in kwargs:
        patience = "files"
    return Call(
        method,
        path,
        json=body,
        content=kwargs.get("content"),
        headers=kwargs.get("headers") or {},
        model=(body or {}).get("model"),
        patience=patience,
    )


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that the daemon knows; ``num_predict`` may be as endless as it is there.

    The limit of the whole call bounds the answer then.
    """
    limit = options.get("num_predict")
    if not isinstance(limit, int) or limit > 0:
        return check_options(options)
    return check_options({**options, "num_predict": None}) | {"num_predict": limit}


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


def _refuse(cls: Any, exc: Exception) -> NoReturn:
    with _told():
        raise ReplyInvalidError(
            f"the daemon's answer is no {cls.__name__}: {exc}",
            hint="is it an Ollama? ollama-bridge doctor",
        ) from exc


def _check_end(part: Mapping[str, Any], call: Call) -> None:
    ended = part.get("done") is True if call.path in _QUESTIONS else part.get("status") == "success"
    if not ended:
        raise StreamBrokenError(
            f"{call.path} of {call.model!r} ended without its terminal event",
            hint="ask again; if it goes on, look at the daemon's log",
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


@contextlib.contextmanager
def _keeping(came: Sequence[Mapping[str, Any]]) -> Iterator[None]:
    """What had come of an answer is in the error that ends it."""
    try:
        yield
    except BridgeResponseError as error:
        whole: dict[str, Any] = {}
        with contextlib.suppress(TypeError, AttributeError, IndexError):  # odd parts, or none
            whole = joined(came)
        message = whole.get("message")
        said = message if isinstance(message, Mapping) else whole
        error.partial_text = said.get("content") or said.get("response") or ""
        error.partial_thinking = said.get("thinking") or ""
        raise


def _kept_safe(kwargs: Mapping[str, Any], *, trust_env: bool = True) -> dict[str, Any]:
    """Arguments of httpx: what is not said is as our own client has it.

    Args:
        kwargs: As they came.
        trust_env: Whether proxies of the environment count: not between us and our own machine.
    """
    safe = {"follow_redirects": False, "trust_env": trust_env} | dict(kwargs)
    if safe.get("timeout") is None:  # of what does not go to the daemon
        safe["timeout"] = 60.0
    return safe


def _limits(timeout: Any) -> Timeouts:
    """Httpx's timeout, which bounds every silence, as limits of ours; None is not for ever."""
    if timeout is None:
        return Timeouts()
    found = httpx.Timeout(timeout)
    defaults = Timeouts()
    return Timeouts(
        connect_s=found.connect or defaults.connect_s,
        load_s=0.0 if found.read else defaults.load_s,
        first_token_s=found.read or defaults.first_token_s,
        between_tokens_s=found.read or defaults.between_tokens_s,
        total_s=max(defaults.total_s, found.read or 0.0),
    )


@cache
def _default() -> Client:
    return Client()


def __getattr__(name: str) -> Any:
    """``chat``, ``generate``, ... of a default client; everything else is ollama's."""
    found = getattr(ollama, name)
    if callable(found) and getattr(found, "__self__", None) is not None:
        return getattr(_default(), name)
    return found
