"""Chat examples: the one form that data has between the stages.

Does not know where examples come from (``data``) nor how they become tokens (``batches``).
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from ollama_bridge.errors import DataError

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")

_PART = " answer "  # in the id of an example that is the beginning of another


@dataclass(frozen=True)
class Call:
    """A tool call of an assistant's message."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)
    id: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As chat templates and Ollama's API want it."""
        return {
            **({"id": self.id} if self.id else {}),
            "type": "function",
            "function": {"name": self.name, "arguments": dict(self.arguments)},
        }


@dataclass(frozen=True)
class Message:
    """One turn.

    Attributes:
        role: Who speaks.
        content: What is said; may be empty beside calls.
        calls: Of tools, by an assistant.
        name: Of the tool whose result this is.
        call_id: Of the call whose result this is; empty where calls have none.
    """

    role: Role
    content: str
    calls: tuple[Call, ...] = ()
    name: str = ""
    call_id: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As a corpus has it, and Ollama's API wants it; what is not there is left out."""
        return self._with("tool_name")

    def to_jinja(self) -> dict[str, Any]:
        """As chat templates want it."""
        return self._with("name")

    @property
    def text(self) -> str:
        """All that it says: its content, and its calls as JSON, a line each."""
        calls = (
            json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
            for call in self.calls
        )
        return "\n".join(filter(None, (self.content, *calls)))

    def _with(self, name_key: str) -> dict[str, Any]:
        said: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.calls:
            said["tool_calls"] = [call.to_dict() for call in self.calls]
        if self.name:
            said[name_key] = self.name
        if self.call_id:
            said["tool_call_id"] = self.call_id
        return said


@dataclass(frozen=True)
class Example:
    """One conversation. Every assistant turn in it is to be learnt.

    Attributes:
        id: Unique in its corpus, and stable from run to run.
        messages: System turn first if there is one; ends on the assistant, or on the user or a
            tool's result where the answer is still to be written.
        group: The source document; examples of one group never lie in two splits.
        label: The right answer, of a classification or where one is known; None for other text.
        tools: What the assistant may call, as chat templates and Ollama's API want them.
    """

    id: str
    messages: tuple[Message, ...]
    group: str
    label: str | None = None
    tools: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The turns before the last answer."""
        if self.messages and self.messages[-1].role == "assistant":
            return self.messages[:-1]
        return self.messages

    @property
    def is_answered(self) -> bool:
        """Whether there is an assistant turn."""
        return any(message.role == "assistant" for message in self.messages)

    @property
    def is_open(self) -> bool:
        """Whether its last answer is still to be written."""
        return not self.messages or self.messages[-1].role != "assistant"

    def up_to_each_answer(self) -> Iterator[Example]:
        """The same, ending on each of its answers in turn; the last is all of it.

        What is known of the right answer (``label``) is known of the last.
        """
        places = [place for place, one in enumerate(self.messages, 1) if one.role == "assistant"]
        for number, place in enumerate(places, start=1):
            if place < len(self.messages):
                part, messages = f"{self.id}{_PART}{number}", self.messages[:place]
                yield replace(self, id=part, messages=messages, label=None)
        yield self

    @property
    def is_part(self) -> bool:
        """Whether another goes on where it ends, see :meth:`up_to_each_answer`."""
        return _PART in self.id

    def to_json(self) -> str:
        """One line of a corpus file."""
        line: dict[str, Any] = {
            "id": self.id,
            "group": self.group,
            "label": self.label,
            "messages": [message.to_dict() for message in self.messages],
        }
        if self.tools:  # without them a line is the one that it always was
            line["tools"] = list(self.tools)
        return json.dumps(line, ensure_ascii=False)

    @classmethod
    def from_dict(cls, data: dict[str, Any], *, where: str) -> Example:
        """Read what :meth:`to_json` wrote.

        Raises:
            DataError: naming ``where``.
        """
        try:
            messages = tuple(parse_message(item, where=where) for item in data["messages"])
            tools = tuple(data.get("tools", ()))
            return cls(str(data["id"]), messages, str(data["group"]), data.get("label"), tools)
        except (KeyError, TypeError) as exc:
            raise DataError(f"{where}: not a chat example ({exc!r})") from exc


def parse_message(item: object, *, where: str) -> Message:
    """Check one ``{"role": ..., "content": ...}``, with calls or a result as a corpus has them.

    Raises:
        DataError: naming ``where`` and what is wrong.
    """
    if not isinstance(item, dict):
        raise DataError(f"{where}: a message must be an object with role and content")
    role, content = item.get("role"), item.get("content")
    if role not in ROLES:
        raise DataError(f"{where}: role {reprlib.repr(role)} is not one of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise DataError(f"{where}: the content of the {role}'s message is not a text")
    calls = tuple(
        Call(one["function"]["name"], one["function"]["arguments"], one.get("id", ""))
        for one in item.get("tool_calls", ())
    )
    name, call_id = item.get("tool_name", ""), item.get("tool_call_id", "")
    return Message(cast(Role, role), content, calls, name, call_id)


def handed_on(value: Any) -> Any:
    """A JSON value of a call or a tool as Ollama hands it on: keys by name, 1.0 as 1.

    Halves of a surrogate pair in keys, which UTF-8 cannot have, are spelt out.
    """
    if isinstance(value, dict):
        return {
            key.encode("utf-8", "backslashreplace").decode(): handed_on(value[key])
            for key in sorted(value)
        }
    if isinstance(value, list):
        return [handed_on(one) for one in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def write_examples(path: Path, examples: Iterable[Example]) -> int:
    """Write examples as JSONL; returns how many.

    Half a surrogate pair, which a teacher's answer may hold and UTF-8 cannot, becomes a ``?``.
    """
    count = 0
    with path.open("w", encoding="utf-8", errors="replace") as stream:
        for example in examples:
            stream.write(example.to_json() + "\n")
            count += 1
    return count


def read_examples(path: Path) -> Iterator[Example]:
    """Read a corpus file.

    Raises:
        DataError: naming file and line.
    """
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            where = f"{path}, line {number}"
            try:
                data = json.loads(line)
            except json.JSONDecodeError as exc:
                raise DataError(f"{where}: not JSON ({exc.msg})") from exc
            yield Example.from_dict(data, where=where)
