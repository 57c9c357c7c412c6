"""What a chat template writes around what is said: one rendering taken apart at its holes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Literal

from ollama_bridge.errors import TemplateError
from ollama_bridge.template.conversation import Conversation, Message
from ollama_bridge.template.decisions import Facts, Sample
from ollama_bridge.template.jinja import ChatTemplate, RefusedError
from ollama_bridge.template.marked_conversations import SYSTEM
from ollama_bridge.template.notation import Notation

# Private-use characters: no template writes them.
_OPEN, _CLOSE = "\ue000", "\ue001"
_SYSTEM_MARK = f"{_OPEN}system{_CLOSE}"
_TOOLS_MARK = f"{_OPEN}tools{_CLOSE}"
MARK = re.compile(f"{_OPEN}([^{_CLOSE}]*){_CLOSE}", re.DOTALL)

HoleKind = Literal["content", "thinking", "name", "arguments", "id"]


def inexpressible(reason: str) -> TemplateError:
    """The error for a template that is good, but more than Go can say."""
    return TemplateError(reason, is_inexpressible=True)


@dataclass(frozen=True)
class Hole:
    """Where something that was said stands in the prompt."""

    message: int
    kind: HoleKind
    call: int
    start: int
    stop: int


@dataclass(frozen=True)
class Gap:
    """What stands between two messages.

    Attributes:
        before: The message before: user, assistant, calls (an assistant's with calls), tool; or
            nothing.
        after: Role of the message behind; nothing: the end.
        kind: What of that message comes first.
        text: The text.
        facts: What is known there.
        seen: In which conversation.
    """

    before: str
    after: str
    kind: str
    text: str
    facts: Facts
    seen: Conversation

    @property
    def sample(self) -> Sample[str]:
        """To learn from."""
        return Sample(self.facts, self.text, self.seen)


@dataclass(frozen=True)
class Observation:
    """One rendering.

    Attributes:
        conversation: What was rendered.
        text: The prompt, with marks for system prompt, tools and dates.
        holes: Where the messages stand in it, in order.
        separator: What stands between two tools; None: there are not two.
    """

    conversation: Conversation
    text: str
    holes: tuple[Hole, ...]
    separator: str | None

    def of(self, message: int) -> tuple[Hole, ...]:
        """The holes of one message."""
        return tuple(hole for hole in self.holes if hole.message == message)

    def between(self, before: Hole | None, after: Hole | None) -> str:
        """The text between two holes; None: start and end."""
        return self.text[before.stop if before else 0 : after.start if after else len(self.text)]

    def gaps(self) -> list[Gap]:
        """The texts between messages; none behind one that is to be continued."""
        found = []
        before, last, conversation = "", None, self.conversation
        for number, message in enumerate(conversation.messages):
            if message.role == "system":
                continue
            holes = self.of(number)
            text = self.between(last, holes[0])
            facts = self.facts(number)
            found.append(Gap(before, message.role, holes[0].kind, text, facts, conversation))
            before, last = message.role, holes[-1]
            if last.kind in ("name", "arguments", "id") and message.calls:
                before = "calls"
        if not conversation.continued:
            text = self.between(last, None)
            found.append(Gap(before, "", "", text, self.facts(None), conversation))
        return found

    def facts(self, message: int | None) -> Facts:
        """What is known at a message; None: behind the last one."""
        conversation = self.conversation
        messages = conversation.messages
        place = len(messages) if message is None else message
        before = messages[place - 1].role if place else "system"
        facts = Facts(
            previous="" if before == "system" else before,
            system=bool(conversation.system),
            tools=bool(conversation.tools),
            think=conversation.think,
        )
        if message is None:
            return facts
        said = messages[message]
        return replace(
            facts,
            past=message < conversation.last_user,
            last=message == conversation.last_user,
            final=message == len(messages) - 1,
            thinking=bool(said.thinking),
            content=bool(said.content),
            calls=bool(said.calls),
        )


def observe(template: ChatTemplate, conversation: Conversation, notation: Notation) -> Observation:
    """Render a conversation of marks and find them.

    Raises:
        RefusedError: the template raises.
        TemplateError: something that was said is changed, repeated or out of order.
    """
    try:
        text = template.render(conversation, clock=lambda form: f"{_OPEN}date {form}{_CLOSE}")
    except RefusedError as exc:
        template.render(conversation)  # raises, unless it was for the mark in the date's place
        raise inexpressible("the chat template computes with the date") from exc
    separator = None
    if conversation.tools and notation.tool is not None:
        text, separator = _mark_tools(
            text, [notation.tool.write(tool) for tool in conversation.tools]
        )
    if conversation.system:
        text = text.replace(SYSTEM, _SYSTEM_MARK)
    holes = []
    for number, message in enumerate(conversation.messages):
        if message.role != "system":
            holes += _find_holes(text, number, message, notation)
    in_order = sorted(holes, key=lambda hole: hole.start)
    order = [hole.message for hole in in_order]
    if order != sorted(order):
        raise inexpressible("the chat template writes the messages in another order")
    return Observation(conversation, text, tuple(in_order), separator)


def _find_holes(text: str, number: int, message: Message, notation: Notation) -> list[Hole]:
    found: list[tuple[HoleKind, int, int, int]] = []

    def find(kind: HoleKind, said: str, call: int = 0, *, may_lack: bool = False) -> None:
        place = text.find(said)
        if place < 0 and not may_lack:
            verb = "does not write"
            if kind == "arguments" and all(key in text for key in message.calls[call].arguments):
                verb = "has a form of its own for"
            raise inexpressible(f"the chat template {verb} the {message.role}'s {kind}")
        if place >= 0 and kind != "name" and kind != "id" and text.count(said) > 1:
            raise inexpressible(f"the chat template writes the {message.role}'s {kind} twice")
        if place >= 0:
            found.append((kind, call, place, place + len(said)))

    # What an assistant said or thought is dropped in some places: where, is learnt.
    assistant = message.role == "assistant"
    if message.content:
        said = message.content
        quoted = message.role == "tool" and notation.quoted_results
        find("content", json.dumps(said) if quoted else said, may_lack=assistant)
    if message.thinking:
        find("thinking", message.thinking, may_lack=True)
    for index, call in enumerate(message.calls if notation.calls else ()):
        find("name", call.name, index)
        each = notation.arguments
        said = each.write(call.arguments) if each is not None else json.dumps(dict(call.arguments))
        find("arguments", said, index)
        if notation.call_ids:
            find("id", call.id, index)
    if message.role == "tool":
        # The call wrote them first.
        for kind, said, others in (
            ("name", message.name, int(notation.calls)),
            ("id", message.call_id, int(notation.call_ids)),
        ):
            if text.count(said) > others:
                place = text.rfind(said)
                found.append(("name" if kind == "name" else "id", 0, place, place + len(said)))
    if not found:
        raise inexpressible(f"the chat template drops a message of the {message.role}")
    return [Hole(number, kind, call, start, stop) for kind, call, start, stop in found]


def _mark_tools(text: str, written: list[str]) -> tuple[str, str | None]:
    places = [text.find(tool) for tool in written]
    if -1 in places or places != sorted(places):
        return text, None
    separator = None
    if len(written) > 1:
        separator = text[places[0] + len(written[0]) : places[1]]
    start, stop = places[0], places[-1] + len(written[-1])
    return text[:start] + _TOOLS_MARK + text[stop:], separator
