"""Holds a Go template against the chat template that it was derived from.

Ordinary conversations have to render to the same text, each of them. What no ordinary request
holds (white space around a message, nothing in it, the chat template's own tags) is tried too;
where that differs, the difference is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date

from ollama_bridge.template import json_in_go
from ollama_bridge.template.answers import unseparated
from ollama_bridge.template.conversation import Call, Conversation, Message
from ollama_bridge.template.format import Format
from ollama_bridge.template.generation import PADDINGS, Domain, fixed, random_ones
from ollama_bridge.template.go_run import GoTemplate
from ollama_bridge.template.jinja import ChatTemplate, RefusedError
from ollama_bridge.template.marked_conversations import probe_tool, takes_system
from ollama_bridge.template.observation import inexpressible
from ollama_bridge.template.probing import depends_on_think, keeps_thoughts
from ollama_bridge.template.shrinking import shrink

_RANDOM_CONVERSATIONS = 300
# A day whose parts all differ, and one with leading zeros.
_DAYS = (date(2031, 12, 25), date(2026, 2, 3))
# Ollama joins messages of one role, and gathers all system messages, before a template sees them:
# an empty one, which switches a default off, is none then.
_MERGED = {
    "a second message of one role in a row": Conversation(
        (Message("user", "One."), Message("user", "Two."))
    ),
    "a system message behind others": Conversation(
        (Message("user", "One."), Message("system", "Two."), Message("user", "Three."))
    ),
    "an empty system message": Conversation((Message("system", ""), Message("user", "One."))),
}


@dataclass(frozen=True)
class Difference:
    """The smallest conversation found that the two render differently.

    Attributes:
        conversation: The conversation.
        wanted: What the chat template renders.
        got: What the Go template renders.
    """

    conversation: Conversation
    wanted: str
    got: str

    def __str__(self) -> str:
        """The conversation, and the first place that differs."""
        shared = min(len(self.wanted), len(self.got))
        at = next((i for i in range(shared) if self.wanted[i] != self.got[i]), shared)
        wanted, got = (text[max(at - 16, 0) : at + 24] for text in (self.wanted, self.got))
        return (
            f"[{self.conversation.describe()}] differs at character {at}: the chat template "
            f"renders ...{wanted!r}..., the Go template ...{got!r}..."
        )


@dataclass(frozen=True)
class Proof:
    """That a Go template renders as the chat template does.

    Attributes:
        conversations: How many were compared and are equal.
        refused: How many the chat template refuses, so that nothing can be compared.
        differences: What renders differently, in words; none of it is an ordinary request.
    """

    conversations: int
    refused: int
    differences: tuple[str, ...]


def prove(template: ChatTemplate, source: str, format_: Format) -> Proof:
    """Compare the two on a fixed set of conversations and on random ones.

    Args:
        template: The chat template.
        source: The Go template.
        format_: What it was written from: says which conversations are in its reach.

    Raises:
        TemplateError: an ordinary conversation renders differently; the smallest is shown.
    """
    run = _Run(template, GoTemplate(source))
    domain = domain_of(template, format_)
    ordinary = [*fixed(domain), *random_ones(domain, _RANDOM_CONVERSATIONS, seed=0)]
    for conversation in ordinary:
        found = run.compare(conversation)
        if found is not None:
            raise inexpressible(
                f"the Go template differs from the chat template: {run.shrunk(found)}"
            )
    named = [
        *run.name("white space around a message", _padded(ordinary)),
        *run.name("white space around a thought", _padded_thoughts(ordinary)),
        *run.name("an empty message", _emptied(ordinary)),
    ]
    for literal in template.literals():
        named += run.name(f"a message with {literal!r} in it", _with(ordinary, literal))
    named += run.name("a message that is said twice", _repeated(ordinary))
    offers = ((), (probe_tool(0),)) if format_.tools else ((),)
    for what, conversation in _MERGED.items():
        states = [(tools, think) for tools in offers for think in domain.thinks]
        asked = [replace(conversation, tools=tools, think=think) for tools, think in states]
        named += run.name(what, asked)
    named += run.name("calls or thinking of a second answer in a row", _second_answers(domain))
    named += run.name(
        "a conversation that begins with an answer, as one does that Ollama cuts", _cut(ordinary)
    )
    if None not in domain.thinks and _thinks_less_unasked(template):
        named.append(
            "a request that does not say whether to think: Ollama lets the model think, the chat "
            "template by itself does not"
        )
    thinking = format_.thinking
    if thinking is not None and not thinking.by_field:
        named.append(
            "a past answer's thinking: the chat template keeps it in the text, if only in the last "
            "answer's, and the tag leaves it out"
            if keeps_thoughts(template, thinking.opening, thinking.closing)
            else "an answer that is to be continued: its thinking is kept, which the chat template "
            "cuts out of answers"
        )
    named += unseparated(template, format_)
    if format_.tools:
        named += run.name("a tool's description of several lines", _described(ordinary))
        named += json_in_go.LIMITS
        form = format_.notation.tool
        named += json_in_go.LIMITS_OF_INDENTED if form is not None and form.indent else ()
    return Proof(run.equal, run.refused, tuple(named))


def domain_of(template: ChatTemplate, format_: Format) -> Domain:
    """Which conversations Ollama may send to a template of this format."""
    thinking = format_.thinking
    thinks: tuple[bool | None, ...] = (None, False)
    if thinking is not None:
        thinks = (True, False)
    elif not depends_on_think(template, tools=format_.tools):
        thinks = (None,)
    return Domain(
        system=takes_system(template),
        tools=format_.tools,
        many_calls=format_.calls is None or format_.calls.many,
        thinking=thinking is not None,
        continued_thinking=thinking is not None and thinking.by_field,
        thinks=thinks,
    )


class _Run:
    def __init__(self, template: ChatTemplate, go: GoTemplate) -> None:
        self._template = template
        self._go = go
        self.equal = 0
        self.refused = 0

    def compare(self, conversation: Conversation) -> Difference | None:
        """The difference, if there is one; counts."""
        try:
            found = self._difference(conversation)
        except RefusedError:
            self.refused += 1
            return None
        self.equal += found is None
        return found

    def shrunk(self, found: Difference) -> Difference:
        """The smallest that still differs."""

        def differs(conversation: Conversation) -> bool:
            try:
                return self._difference(conversation) is not None
            except RefusedError:
                return False

        return self._difference(shrink(found.conversation, differs)) or found

    def name(self, what: str, conversations: Iterable[Conversation]) -> list[str]:
        """The difference in words, if any of these conversations has one."""
        for conversation in conversations:
            found = self.compare(conversation)
            if found is not None:
                return [f"{what} can be rendered differently: {self.shrunk(found)}"]
        return []

    def _difference(self, conversation: Conversation) -> Difference | None:
        day = _DAYS[len(conversation.messages) % len(_DAYS)]
        wanted = self._template.render(conversation, clock=day.strftime)
        got = self._go.render(conversation, today=day)
        return None if wanted == got else Difference(conversation, wanted, got)


def _thinks_less_unasked(template: ChatTemplate) -> bool:
    question = (Message("user", "Hi"),)
    unasked = template.render(Conversation(question))
    return unasked != template.render(Conversation(question, think=True))


def _changed(ordinary: Iterable[Conversation], contents: Iterable[str]) -> Iterator[Conversation]:
    """Conversations in which one message after the other has another content."""
    several = list(contents)
    chosen = [conversation for conversation in ordinary if len(conversation.messages) <= 5][::7]
    for turn, conversation in enumerate(chosen):
        for number, message in enumerate(conversation.messages):
            content = several[(turn + number) % len(several)].format(message.content)
            changed = _replaced(conversation.messages, number, content)
            yield replace(conversation, messages=changed)


def _padded(ordinary: Iterable[Conversation]) -> Iterator[Conversation]:
    return _changed(ordinary, PADDINGS)


def _padded_thoughts(ordinary: Iterable[Conversation]) -> Iterator[Conversation]:
    """Most of all with a line end behind it: Ollama gives a thought with all before its end."""
    paddings = "{}\n", *PADDINGS
    chosen = [conversation for conversation in ordinary if len(conversation.messages) <= 5]
    for turn, conversation in enumerate(chosen[::7]):
        padding, messages = paddings[turn % len(paddings)], conversation.messages
        for number, message in enumerate(messages):
            if message.thinking:
                changed = replace(message, thinking=padding.format(message.thinking))
                padded = (*messages[:number], changed, *messages[number + 1 :])
                yield replace(conversation, messages=padded)


def _emptied(ordinary: Iterable[Conversation]) -> Iterator[Conversation]:
    # An empty system prompt is none to Ollama, and there is nothing to continue in no words.
    return (
        conversation
        for conversation in _changed(ordinary, [""])
        if conversation.messages[0].content or conversation.messages[0].role != "system"
        if conversation.messages[-1].content or not conversation.continued
    )


def _with(ordinary: Iterable[Conversation], literal: str) -> Iterator[Conversation]:
    literal = literal.replace("{", "{{").replace("}", "}}")
    return _changed(ordinary, [literal, "{} " + literal, literal + " {}", "so " + literal + " so"])


def _second_answers(domain: Domain) -> Iterator[Conversation]:
    """What Ollama joins to the answer before it, and drops but for its words."""
    before = Message("user", "One."), Message("assistant", "Two.")
    if domain.tools:
        call = Call("look", id="call00001")
        asks = Message("assistant", "", calls=(call,))
        result = Message("tool", "Three.", name=call.name, call_id=call.id)
        yield Conversation((*before, asks, result), think=domain.thinks[0])
    if domain.thinking:
        thought = Message("assistant", "Three.", thinking="Hm.")
        yield Conversation((*before, thought, Message("user", "Four.")), think=domain.thinks[0])


def _cut(ordinary: Iterable[Conversation]) -> Iterator[Conversation]:
    """Without the first question: what does not fit is left out, but for the system prompt."""
    for conversation in ordinary:
        messages = conversation.messages
        at = 1 if conversation.system else 0
        if len(messages) - at > 1:
            yield replace(conversation, messages=(*messages[:at], *messages[at + 1 :]))


def _described(ordinary: Iterable[Conversation]) -> Iterator[Conversation]:
    """With a description such as that of a Python function; not every template escapes it."""
    for conversation in [conversation for conversation in ordinary if conversation.tools][::40]:
        first, *others = conversation.tools
        function = {**first["function"], "description": 'Look it "up".\n\n    Twice: C:\\n'}
        yield replace(conversation, tools=({**first, "function": function}, *others))


def _repeated(ordinary: Iterable[Conversation]) -> Iterator[Conversation]:
    for conversation in list(ordinary)[::7]:
        messages = tuple(
            replace(message, content="Again!") if message.role == "user" else message
            for message in conversation.messages
        )
        yield replace(conversation, messages=messages)


def _replaced(messages: tuple[Message, ...], number: int, content: str) -> tuple[Message, ...]:
    changed = replace(messages[number], content=content)
    return (*messages[:number], changed, *messages[number + 1 :])
