"""Conversations that templates are probed with, as Jinja sees them and as Ollama gets them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ollama_bridge.examples import Call as Call  # of probes as of examples
from ollama_bridge.examples import Role as Role

# Of a tool's parameters, as Ollama hands them on, to whom it does not write them itself.
_KEYS_OF_PARAMETERS = ("type", "$defs", "items", "required", "properties")


@dataclass(frozen=True)
class Message:
    """One turn; what only some roles have is empty in the others."""

    role: Role
    content: str
    thinking: str = ""
    calls: tuple[Call, ...] = ()
    name: str = ""
    call_id: str = ""

    def to_jinja(self) -> dict[str, Any]:
        """As chat templates expect it; what is not there is left out."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.thinking:
            # transformers gives it under both names
            message |= {"reasoning_content": self.thinking, "thinking": self.thinking}
        if self.calls:
            message["tool_calls"] = [call.to_dict() for call in self.calls]
        if self.role == "tool":
            message |= {"name": self.name, "tool_call_id": self.call_id}
        return message

    def to_ollama(self) -> dict[str, Any]:
        """As ``/api/chat`` takes it."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.thinking:
            message["thinking"] = self.thinking
        if self.calls:
            message["tool_calls"] = [call.to_dict() for call in self.calls]
        if self.role == "tool":
            message |= {"tool_name": self.name, "tool_call_id": self.call_id}
        return message


@dataclass(frozen=True)
class Conversation:
    """What one request says.

    Attributes:
        messages: A system message, if any, stands first; one that ends on the assistant is
            to be continued.
        tools: Definitions, in the order of keys in which Ollama writes them.
        think: The request's ``think``; None: not sent.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    think: bool | None = None

    @property
    def continued(self) -> bool:
        """Whether the last message is an answer that was begun."""
        return self.messages[-1].role == "assistant"

    @property
    def system(self) -> str:
        """The system prompt, or nothing."""
        first = self.messages[0]
        return first.content if first.role == "system" else ""

    @property
    def last_user(self) -> int:
        """Index of the last user message; -1: none."""
        users = [index for index, message in enumerate(self.messages) if message.role == "user"]
        return users[-1] if users else -1

    @property
    def handed_on(self) -> Conversation:
        """The same, with the keys of tools' parameters in the order in which Ollama has them."""
        return replace(self, tools=tuple(_handed_on(tool) for tool in self.tools))

    def describe(self) -> str:
        """In one line, for messages to people."""
        parts = []
        for message in self.messages:
            said = f"{message.role} {message.content!r}"
            if message.thinking:
                said += f" (thinking {message.thinking!r})"
            if message.calls:
                said += f" (calls {', '.join(call.name for call in message.calls)})"
            parts.append(said)
        if self.tools:
            parts.append(f"{len(self.tools)} tool(s)")
        if self.think is not None:
            parts.append("think" if self.think else "no think")
        return ", ".join(parts)


def _handed_on(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool["function"]
    parameters = function["parameters"]
    ordered = {key: parameters[key] for key in _KEYS_OF_PARAMETERS if key in parameters}
    return {**tool, "function": {**function, "parameters": ordered}}
