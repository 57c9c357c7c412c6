"""Whole requests as values: what ``ask`` and ``events`` of both clients take.

An object as Ollama's own API and its Python client want it is one too, with functions as tools and
that client's own types in it. ``stream`` in it means nothing here: answers are always streamed, and
whoever asks says whether the pieces are handed out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ollama_bridge.client import calls
from ollama_bridge.client.options import nearest, plain
from ollama_bridge.client.requests import Asking, Dumps, Images, MessageLike, ToolLike
from ollama_bridge.client.wire.exchange import Call
from ollama_bridge.errors import ConfigError

_A_REQUEST = 'write {"model": ..., "messages": [...]} or {"model": ..., "prompt": ...}'


@dataclass(frozen=True, kw_only=True)
class GenerateRequest(Asking):
    """One prompt, for ``/api/generate``.

    Attributes:
        model: The tag.
        prompt: The text.
        system: Instead of the model's own system prompt.
        suffix: What stands behind the gap that is to be filled.
        template: Instead of the model's own.
        raw: No template: the text is sent as it is.
        images: Bytes, paths, or base64.
    """

    model: str
    prompt: str
    system: str | None = None
    suffix: str | None = None
    template: str | None = None
    raw: bool = False
    images: Images = None

    def to_call(self) -> Call:
        """As it is sent."""
        return calls.generate(
            self.model,
            self.prompt,
            self,
            system=self.system,
            suffix=self.suffix,
            template=self.template,
            raw=self.raw,
            images=self.images,
        )


@dataclass(frozen=True, kw_only=True)
class ChatRequest(Asking):
    """The next turn of a conversation, for ``/api/chat``.

    Attributes:
        model: The tag.
        messages: A text is one user turn.
        system: Put before them.
        tools: Functions, or JSON schemas of functions.
    """

    model: str
    messages: str | Sequence[MessageLike]
    system: str | None = None
    tools: Sequence[ToolLike] | None = None

    def to_call(self) -> Call:
        """As it is sent."""
        return calls.chat(self.model, self.messages, self, system=self.system, tools=self.tools)


Question = Call | GenerateRequest | ChatRequest | Mapping[str, Any] | Dumps


def to_call(question: Question) -> Call:
    """Check a question and make it what is sent.

    Raises:
        ConfigError: it is not one, or has a field that the daemon would ignore.
    """
    if isinstance(question, Call):
        return question
    question = plain(question)
    if isinstance(question, Mapping):
        question = _read(question)
    if not isinstance(question, GenerateRequest | ChatRequest):
        raise ConfigError(
            f"a request must be a dict or a request object, not {type(question).__name__}",
            hint=_A_REQUEST,
        )
    return question.to_call()


def to_asking_call(question: Question) -> Call:
    """:func:`to_call`, where an answer is wanted.

    Raises:
        ConfigError: also for no prompt or no messages: Ollama loads the model then, and what it
            sends looks like an answer of no words.
    """
    call = to_call(question)
    body = call.json or {}
    for name in ("prompt", "messages"):
        if name in body and not body[name]:
            raise ConfigError(f"{name!r} is empty, so nothing is asked", hint=_A_REQUEST)
    return call


def _read(data: Mapping[str, Any]) -> GenerateRequest | ChatRequest:
    kind = ChatRequest if "messages" in data else GenerateRequest
    known = frozenset(field.name for field in fields(kind))
    given = {name: value for name, value in data.items() if name != "stream" and value is not None}
    for name in given:
        if name == "context":
            raise ConfigError(
                "a request has a context, which Ollama has deprecated",
                hint='send the earlier turns as "messages"',
            )
        if name not in known:
            raise ConfigError(
                f"unknown field {name!r} of a request: Ollama would ignore it",
                hint=nearest(str(name), known),
            )
    for name in ("model", "messages" if kind is ChatRequest else "prompt"):
        if name not in given:
            raise ConfigError(
                f"a request has no {name!r}",
                hint=_A_REQUEST,
            )
    return kind(**given)
