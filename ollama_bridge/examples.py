"""Chat examples: the one form that data has between the stages.

Does not know where examples come from (``data``) nor how they become tokens (``batches``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from ollama_bridge.errors import DataError

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """One turn."""

    role: Role
    content: str

    def to_dict(self) -> dict[str, str]:
        """As chat templates and Ollama's API want it."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True)
class Example:
    """One conversation. Every assistant turn in it is to be learnt.

    Attributes:
        id: Unique in its corpus, and stable from run to run.
        messages: System turn first if there is one; ends on the assistant, or on the user where
            the answer is still to be written.
        group: The source document; examples of one group never lie in two splits.
        label: The right answer, of a classification or where one is known; None for other text.
    """

    id: str
    messages: tuple[Message, ...]
    group: str
    label: str | None = None

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

    def to_json(self) -> str:
        """One line of a corpus file."""
        return json.dumps(
            {
                "id": self.id,
                "group": self.group,
                "label": self.label,
                "messages": [message.to_dict() for message in self.messages],
            },
            ensure_ascii=False,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any], *, where: str) -> Example:
        """Read what :meth:`to_json` wrote.

        Raises:
            DataError: naming ``where``.
        """
        try:
            messages = tuple(parse_message(item, where=where) for item in data["messages"])
            return cls(str(data["id"]), messages, str(data["group"]), data.get("label"))
        except (KeyError, TypeError) as exc:
            raise DataError(f"{where}: not a chat example ({exc!r})") from exc


def parse_message(item: object, *, where: str) -> Message:
    """Check one ``{"role": ..., "content": ...}``.

    Raises:
        DataError: naming ``where`` and what is wrong.
    """
    if not isinstance(item, dict):
        raise DataError(f"{where}: a message must be an object with role and content")
    role, content = item.get("role"), item.get("content")
    if role not in ROLES:
        raise DataError(f"{where}: role {role!r} is not one of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise DataError(f"{where}: the content of the {role}'s message is not a text")
    return Message(cast(Role, role), content)


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
