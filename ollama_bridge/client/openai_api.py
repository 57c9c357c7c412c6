"""Asks a server that speaks OpenAI's chat completions: vLLM, llama.cpp, and Ollama's own ``/v1``.

What a teacher needs of it, and no more: one answer to a conversation, with its likeliest tokens.
The same transport, limits and errors as for a daemon.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any
from urllib.parse import urlsplit

import httpx

from ollama_bridge.client.answers.thinking import thinking_apart
from ollama_bridge.client.readers import read_logprobs
from ollama_bridge.client.requests import MessageLike, message_list
from ollama_bridge.client.values import Reply, Timings, ToolCall
from ollama_bridge.client.wire.address import read_address
from ollama_bridge.client.wire.exchange import Call, Timeouts
from ollama_bridge.client.wire.fields import Fields, read_fields
from ollama_bridge.client.wire.transport import AsyncTransport
from ollama_bridge.closing import AsyncClosing
from ollama_bridge.errors import (
    ConfigError,
    DaemonError,
    DaemonUnreachableError,
    ReplyInvalidError,
    RequestRejectedError,
)

_KEY_VARIABLE = "OPENAI_API_KEY"
_PATH = "/chat/completions"
_WHERE = "a chat completion"


class OpenAIClient(AsyncClosing):
    """A client for asyncio.

    Args:
        base_url: With the version, such as ``http://127.0.0.1:8000/v1``.
        timeouts: One limit a phase; an answer comes as a whole, so the first token's limit and
            ``load_s`` hold for all of it.
        transport: Where requests go instead of the network; for tests.

    Raises:
        ConfigError: no such address, or the key would be sent unencrypted to another machine.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeouts: Timeouts | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if "://" not in base_url:
            raise ConfigError(
                f"{base_url!r} is not a base URL", hint="write it as http://127.0.0.1:8000/v1"
            )
        address = read_address(base_url, key_variable=_KEY_VARIABLE)
        self._url = address.url
        self._transport = AsyncTransport(address, timeouts or Timeouts(), transport)

    async def close(self) -> None:
        """Close every connection."""
        await self._transport.close()

    async def ask(self, call: Call) -> Reply:
        """The answer to a question of :func:`chat_completion`.

        Raises:
            DaemonError: everything that a server can do wrong.
        """
        try:
            data = await self._transport.json(call)
        except DaemonError as error:
            self._advise(error)
            raise
        return read_completion(data, model=str(call.model))

    def _advise(self, error: DaemonError) -> None:
        """The transport's advice is about Ollama."""
        if isinstance(error, DaemonUnreachableError):
            error.hint = f"check that a server answers at {self._url}"
        elif isinstance(error, RequestRejectedError):
            whole = f"write it with its version: {self._url}/v1"
            models = f"see which models there are: curl {quote(self._url)}/models"
            error.hint = {
                401: f"set {_KEY_VARIABLE}",
                403: f"set {_KEY_VARIABLE} to a key that may use {error.model}",
                404: models if urlsplit(self._url).path else whole,
            }.get(error.status_code)


def chat_completion(
    model: str,
    messages: Sequence[MessageLike],
    *,
    max_tokens: int,
    temperature: float,
    seed: int,
    top_logprobs: int | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
) -> Call:
    """``/chat/completions``, the answer as a whole."""
    body: dict[str, Any] = {
        "model": model,
        "messages": _as_openai(message_list(messages)),
        "stream": False,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
    }
    if top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": top_logprobs}
    if tools:
        body["tools"] = list(map(dict, tools))
    return Call("POST", _PATH, json=body, model=model, patience="model")


def _as_openai(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages of Ollama's API with calls and results as OpenAI has them.

    Arguments are JSON texts there, and a result names its call: where calls have no ids, they get
    numbers, which the results take by the names of their tools, else in their order.
    """
    found: list[dict[str, Any]] = []
    waiting: dict[str, str] = {}  # ids to names
    for message in messages:
        said = {name: value for name, value in message.items() if name != "tool_name"}
        if calls := message.get("tool_calls"):
            ids = [call.get("id") or f"call_{len(found)}_{n}" for n, call in enumerate(calls)]
            functions = [call["function"] for call in calls]
            waiting = {id_: one["name"] for id_, one in zip(ids, functions, strict=True)}
            said["tool_calls"] = [
                {"id": id_, "type": "function", "function": _written(one)}
                for id_, one in zip(ids, functions, strict=True)
            ]
        elif message["role"] == "tool" and waiting:
            named = (id_ for id_, name in waiting.items() if name == message.get("tool_name"))
            own = message.get("tool_call_id") or next(named, next(iter(waiting)))
            said["tool_call_id"] = own
            waiting.pop(own, None)
        found.append(said)
    return found


def _written(function: Mapping[str, Any]) -> dict[str, Any]:
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {"name": function["name"], "arguments": arguments}


def read_completion(data: object, *, model: str) -> Reply:
    """Read a completion; thinking is what the server calls so, else what ends on ``</think>``.

    Without a parser of its own for them, vLLM leaves the thoughts of a model in the answer, and
    the tag that opened them in the prompt.

    Raises:
        ReplyInvalidError: it is none, or does not say how it ended.
    """
    fields = read_fields(data, _WHERE)
    choice = next(iter(fields.items("choices")), None)
    reason = choice.text("finish_reason") if choice else ""
    if choice is None or not reason:
        raise ReplyInvalidError(
            f"the answer of {model!r} does not say how it ended",
            hint="ask again; if it fails again, see the server's log",
            model=model,
        )
    message = choice.inner("message")
    thinking = message.text("reasoning_content") or message.text("reasoning")
    text = message.text("content")
    if not thinking:
        thinking, text = thinking_apart(text)
    reported = choice.inner("logprobs")
    usage = fields.inner("usage")
    return Reply(
        text=text,
        thinking=thinking.strip(),
        done_reason=reason,
        model=fields.text("model", model),
        prompt_tokens=usage.whole("prompt_tokens"),
        generated_tokens=usage.whole("completion_tokens"),
        timings=Timings(),
        logprobs=read_logprobs(Fields({"logprobs": reported.data["content"]}, _WHERE))
        if reported.has("content")
        else None,
        tool_calls=tuple(_call(one, model=model) for one in message.items("tool_calls")),
    )


def _call(fields: Fields, *, model: str) -> ToolCall:
    function = fields.inner("function")
    try:
        arguments = json.loads(function.text("arguments") or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise ReplyInvalidError(
            f"{model!r} calls a tool with arguments that are no JSON object",
            hint="ask again; a server that constrains calls to their schemas writes none such",
            model=model,
        )
    return ToolCall(function.required_text("name"), arguments, fields.text("id"))
