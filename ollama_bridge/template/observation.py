"""What a chat template writes around what is said: one rendering taken apart at its holes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from ollama_bridge.errors import TemplateError
from ollama_bridge.template.arguments import EachArgument, find_each
from ollama_bridge.template.conversation import Call, Conversation, Message
from ollama_bridge.template.decisions import Facts, Sample
from ollama_bridge.template.jinja import ChatTemplate, RefusedError

# Private-use characters: no template writes them.
_OPEN, _CLOSE = "\ue000", "\ue001"
SYSTEM_MARK = f"{_OPEN}system{_CLOSE}"
TOOLS_MARK = f"{_OPEN}tools{_CLOSE}"
MARK = re.compile(f"{_OPEN}([^{_CLOSE}]*){_CLOSE}", re.DOTALL)
_SYSTEM = "Xsys0Z"
_QUOTED = 'Xq"q\nqZ'

# How many calls a letter of a shape makes, see `fill`.
CALLS = {"c": 1, "s": 1, "k": 1, "d": 2, "b": 2}

HoleKind = Literal["content", "thinking", "name", "arguments", "id"]


def inexpressible(reason: str) -> TemplateError:
    """The error for a template that is good, but more than Go can say."""
    return TemplateError(reason, is_inexpressible=True)


@dataclass(frozen=True)
class ToolForm:
    """How a template writes one tool: as ``json.dumps`` does, or as Python prints it.

    Attributes:
        whole: With ``type`` around the function.
        indent: Of ``json.dumps``.
        level: 1: it stands in a list that is indented as well.
        raw: The function's description stands between quotes as it is, nothing of it escaped.
        printed: As Python prints it.
    """

    whole: bool
    indent: int | None
    level: int = 0
    raw: bool = False
    printed: bool = False

    def write(self, tool: Mapping[str, Any]) -> str:
        """The text of a tool."""
        value = tool if self.whole else tool["function"]
        if self.printed:
            return str(value)
        text = json.dumps(value, ensure_ascii=False, indent=self.indent)
        if self.raw:
            said = tool["function"]["description"]
            text = text.replace(json.dumps(said, ensure_ascii=False), f'"{said}"', 1)
        return text.replace("\n", "\n" + " " * ((self.indent or 0) * self.level))


TOOL_FORMS = (
    *(
        ToolForm(whole, indent, level)
        for whole in (True, False)
        for indent, level in ((None, 0), (4, 0), (2, 0), (4, 1), (2, 1))
    ),
    *(ToolForm(whole, None, printed=True) for whole in (True, False)),
)


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


def fill(shape: str, *, system: bool, tools: int, think: bool | None) -> Conversation:
    """A conversation of marks.

    Args:
        shape: A letter a message: u, a, r (assistant that has thought), c (calls a tool),
            d (calls two), s (says something and calls), b (and calls two), k (has thought and
            calls), t (result).
        system: Whether it has a system prompt.
        tools: How many tools there are.
        think: As in the request.
    """
    messages = [Message("system", _SYSTEM)] if system else []
    names: list[tuple[str, str]] = []
    for letter in shape:
        number = len(messages)
        if letter == "t":
            name, call_id = names.pop(0) if names else (f"Xname{number}Z", f"Id{number:06}q")
            messages.append(Message("tool", f"Xtool{number}Z", name=name, call_id=call_id))
            continue
        if letter == "u":
            messages.append(Message("user", f"Xuser{number}Z"))
            continue
        calls = tuple(
            Call(
                f"Xcall{number}n{index}Z",
                {f"Xkey{number}n{index}Z": "v"},
                f"Id{number:03}{index:03}q",
            )
            for index in range(CALLS.get(letter, 0))
        )
        names += [(call.name, call.id) for call in calls]
        messages.append(
            Message(
                "assistant",
                f"Xsaid{number}Z" if letter in "arsb" else "",
                thinking=f"Xthought{number}Z" if letter in "rk" else "",
                calls=calls,
            )
        )
    return Conversation(tuple(messages), tuple(probe_tool(index) for index in range(tools)), think)


def probe_tool(number: int) -> dict[str, Any]:
    """A tool that uses what most definitions use, its keys in Ollama's order."""
    return {
        "type": "function",
        "function": {
            "name": f"Xtool{number}nameZ",
            "description": f"Xtool{number}saysZ",
            "parameters": {
                "type": "object",
                "properties": {
                    "a": {"type": "string", "description": "first"},
                    "b": {"type": "integer"},
                },
                "required": ["a"],
            },
        },
    }


@dataclass(frozen=True)
class Notation:
    """How a template writes what is more than text.

    Attributes:
        tool: A tool's definition; None: not as JSON, or not at all.
        calls: Whether calls are written.
        call_ids: Whether calls are written with their ids.
        quoted_results: Whether a tool's result is written as a JSON text.
        arguments: How the arguments of a call are written; None: as JSON.
    """

    tool: ToolForm | None = None
    calls: bool = False
    call_ids: bool = False
    quoted_results: bool = False
    arguments: EachArgument | None = None


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
        text = text.replace(_SYSTEM, SYSTEM_MARK)
    holes = []
    for number, message in enumerate(conversation.messages):
        if message.role != "system":
            holes += _find_holes(text, number, message, notation)
    in_order = sorted(holes, key=lambda hole: hole.start)
    order = [hole.message for hole in in_order]
    if order != sorted(order):
        raise inexpressible("the chat template writes the messages in another order")
    return Observation(conversation, text, tuple(in_order), separator)


def find_notation(template: ChatTemplate) -> Notation:
    """How the template writes tools, calls and results, as far as it writes them.

    Raises:
        RefusedError: the template raises where there are tools.
    """
    asked = fill("u", system=takes_system(template), tools=1, think=None)
    text = template.render(asked)
    # The whole contains its function, so it is tried first.
    form = next((form for form in TOOL_FORMS if form.write(asked.tools[0]) in text), None)
    if form is not None and _writes_raw(template, asked, form):
        form = replace(form, raw=True)
    called = fill("uct", system=False, tools=1, think=None)
    *before, result = called.messages
    call = before[-1].calls[0]
    other = replace(result, content=_QUOTED, call_id="Id9999999", name="other")
    odd = replace(called, messages=(*before, other))
    text = template.render(odd)
    arguments = None
    if call.name in text and json.dumps(dict(call.arguments)) not in text:

        def render(changed: Mapping[str, Any]) -> str:
            asking = replace(before[-1], calls=(replace(call, arguments=changed),))
            return template.render(replace(called, messages=(*before[:-1], asking, result)))

        arguments = find_each(render)
    return Notation(
        tool=form,
        calls=call.name in text,
        call_ids=call.id in text,
        quoted_results=_QUOTED not in text and json.dumps(_QUOTED) in text,
        arguments=arguments,
    )


def _writes_raw(template: ChatTemplate, asked: Conversation, form: ToolForm) -> bool:
    """Whether the function's description is quoted by hand: Mistral's go through its keys."""
    function = {**asked.tools[0]["function"], "description": _QUOTED}
    tool = {**asked.tools[0], "function": function}
    text = template.render(replace(asked, tools=(tool,)))
    return form.write(tool) not in text and replace(form, raw=True).write(tool) in text


def takes_system(template: ChatTemplate) -> bool:
    """Whether a system prompt may be given."""
    return use_of_system(template) != "refused"


def use_of_system(template: ChatTemplate) -> Literal["written", "left out", "refused"]:
    """What becomes of a system prompt: some raise, and some leave it out without a word."""
    try:
        text = template.render(fill("u", system=True, tools=0, think=None))
    except RefusedError:
        return "refused"
    return "written" if _SYSTEM in text else "left out"


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
    return text[:start] + TOOLS_MARK + text[stop:], separator
