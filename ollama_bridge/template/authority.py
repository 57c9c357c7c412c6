"""Decides who renders a tag's prompts: a Go template of ours, or the daemon's own Jinja or code.

One authority a tag. With a TEMPLATE and a Jinja template in the GGUF, Ollama follows one of them
by rules of its own, so only the one that is decided on is given to it.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass, replace
from typing import Literal

from ollama_bridge.errors import TemplateError
from ollama_bridge.template.answers import CALLS_STAY, splits_thinking
from ollama_bridge.template.conversation import Conversation, Message
from ollama_bridge.template.format import Format
from ollama_bridge.template.jinja import HINT, ChatTemplate, RefusedError
from ollama_bridge.template.marked_conversations import fill
from ollama_bridge.template.probing import (
    find_unclear_tag,
    find_unopened,
    left_in_answers,
    out_of_reach,
    shows_thinking,
    takes_tools,
)
from ollama_bridge.template.proof import Proof, prove
from ollama_bridge.template.synthesis import synthesise
from ollama_bridge.template.words import cuts_thoughts, names_thinking, names_tools
from ollama_bridge.template.writer import write

Authority = Literal["template", "jinja", "renderer"]
TOOLS, THINKING, CALLS = "tools", "thinking", "tool calls"
_SHOWN = 60  # characters of a prompt in a message
_HANDED_ON = (
    "a tool's definition has its keys in Ollama's order, required before properties, and an empty "
    "description where it has none"
)
_CUTS_THOUGHTS = (
    "Ollama 0.34 lists thinking because of the chat template's content.split('</think>'), which "
    "is not proven"
)


@dataclass(frozen=True)
class Renderer:
    """Code of Ollama's own for one family's format.

    Attributes:
        name: Of RENDERER.
        parser: Of PARSER.
        conversations: In how many it was seen to render as the chat template does.
    """

    name: str
    parser: str
    conversations: int


@dataclass(frozen=True)
class NativeJinja:
    """The chat template itself, in a daemon that renders it.

    Attributes:
        conversations: In how many it was seen to render as transformers does.
    """

    conversations: int


@dataclass(frozen=True)
class AnswerParser:
    """Code of Ollama's own that reads the answers of a tag whose prompts Go renders.

    Attributes:
        parser: Of PARSER.
    """

    parser: str


OllamasOwn = Renderer | NativeJinja | AnswerParser


@dataclass(frozen=True)
class Served:
    """How a tag has to render, and what is known of it.

    Attributes:
        authority: template: a Go template; jinja: the chat template, in the daemon; renderer: code
            of Ollama's own.
        go: The Go template; None: another authority.
        reason: Why, in one sentence.
        tools: Whether requests may offer tools.
        thinking: Whether requests may ask for thinking, or for none.
        splits_thinking: Whether an answer's thinking is told from the answer.
        reads_calls: Whether an answer's tool calls are told from its text, as far as that is known.
        conversations: How many were compared.
        differences: What renders differently, in words.
    """

    authority: Authority
    go: str | None
    reason: str
    tools: bool
    thinking: bool
    splits_thinking: bool
    conversations: int
    differences: tuple[str, ...]
    reads_calls: bool = True


def decide(template: ChatTemplate) -> Served:
    """Who renders, for a chat template; found out once of teacher, student and control.

    Raises:
        TemplateError: it fails on a single user message, never writes what the user says, does
            not end, or writes without end.
    """
    special = tuple(sorted(template.special.items()))
    return _decide(template.source, special, adds_bos=template.adds_bos)


@functools.lru_cache(maxsize=128)
def _decide(source: str, special: tuple[tuple[str, str], ...], *, adds_bos: bool) -> Served:
    template = ChatTemplate(source, special=dict(special), adds_bos=adds_bos)
    try:
        template.render(Conversation((Message("user", "Hi"),)))
    except RefusedError as exc:
        raise TemplateError(
            f"the chat template fails on a single user message: {exc}",
            hint=HINT,
        ) from exc
    _check_writes_user(template)
    proven: list[tuple[str, Proof]] = []

    def accept(format_: Format) -> None:
        go = write(format_)
        proven.append((go, prove(template, go, format_)))

    try:
        found = synthesise(template, accept)
    except TemplateError as exc:
        if not exc.is_inexpressible:
            raise
        return _by_daemon(template, exc.message, conversations=0)
    ((go, proof),) = proven
    return Served(
        "template",
        go,
        f"a Go template renders as the chat template does in {proof.conversations} conversations",
        tools=found.tools,
        thinking=found.thinking is not None,
        splits_thinking=found.thinking is not None and splits_thinking(template, found.thinking),
        conversations=proof.conversations,
        differences=(
            *found.limits,
            *out_of_reach(template),
            *left_in_answers(template),
            *(_unclear(template) if found.thinking is None else ()),
            *_unopened(template),
            *(("the chat template takes texts as lists of parts",) if template.takes_parts else ()),
            *proof.differences,
        ),
        reads_calls=CALLS_STAY not in proof.differences,
    )


def _check_writes_user(template: ChatTemplate) -> None:
    """Refuse what answers everybody the same; upper case and blanks cut off are still the text."""
    for shape, system in (("u", False), ("u", True), ("uau", False)):
        asked = fill(shape, system=system, tools=0, think=None)
        with contextlib.suppress(RefusedError):
            if asked.messages[-1].content.casefold() in template.render(asked).casefold():
                return
    made = template.render(Conversation((Message("user", "Hi"),)))
    raise TemplateError(
        "the chat template never writes what the user says (in Jinja: {{ message['content'] }}): "
        f"of any message it makes {made[:_SHOWN]!r}{'...' if len(made) > _SHOWN else ''}",
        hint=HINT,
    )


def _unlisted(template: ChatTemplate) -> tuple[str, ...]:
    """Thinking of a Jinja whose words Ollama does not take for it."""
    if cuts_thoughts(template.source):
        return (_CUTS_THOUGHTS,)
    if not shows_thinking(template):
        return left_in_answers(template)
    return (
        "thinking is not offered: Ollama looks for <think> and </think> in a chat template that it "
        "renders itself",
    )


def _unclear(template: ChatTemplate) -> tuple[str, ...]:
    """What a prompt's last tag is taken for, where that is no more than likely."""
    tag = find_unclear_tag(template)
    if tag is None:
        return ()
    return (
        f"the prompt opens <{tag}>, which is taken for a part of the answer: thoughts in it "
        "are not separated from it",
    )


def _unopened(template: ChatTemplate) -> tuple[str, ...]:
    """What a model has to write itself before it answers."""
    opening = find_unopened(template)
    if not opening:
        return ()
    return (
        f"no prompt ends with {opening!r}, which the chat template writes before answers that are "
        "there: the model has to write it, and it may stand in the text of its answers",
    )


def lost_by(template: ChatTemplate, served: Served) -> tuple[str, ...]:
    """What the chat template has and a tag has not: tools, thinking, or calls in its answers.

    Calls are lost where they stay in the text.
    """
    found = {
        TOOLS: takes_tools(template) and not served.tools,
        THINKING: shows_thinking(template) and not served.thinking,
        CALLS: served.tools and not served.reads_calls,
    }
    return tuple(name for name, is_lost in found.items() if is_lost)


def served_by(template: ChatTemplate, found: OllamasOwn) -> Served:
    """A tag that Ollama serves by code of its own, or its own Jinja, as it was seen to do right."""
    if isinstance(found, Renderer):
        return _by_renderer(template, found)
    if isinstance(found, AnswerParser):
        return _with_parser(decide(template), found.parser)
    why = (
        f"it was seen to render as transformers does in {found.conversations} conversations, and "
        "Go cannot express all of it"
    )
    return _by_daemon(template, why, conversations=found.conversations)


def _by_daemon(template: ChatTemplate, why: str, *, conversations: int) -> Served:
    tools = names_tools(template.source)
    thinking = names_thinking(template.source)
    listed = (*(("tools",) if tools else ()), *(("thinking",) if thinking else ()))
    tools = tools and takes_tools(template)
    return Served(
        "jinja",
        None,
        f"the daemon renders the chat template itself, which takes Ollama 0.30 or later: {why}",
        tools=tools,
        thinking=thinking,
        splits_thinking=thinking,
        conversations=conversations,
        differences=(
            "the daemon leaves out an assistant's earlier thinking",
            "the daemon closes thinking before it continues an assistant's message",
            *((_HANDED_ON,) if tools else ()),
            *out_of_reach(template, listed=listed),
            *(() if thinking else _unlisted(template)),
            *_unclear(template),
            *_unopened(template),
        ),
    )


def _with_parser(served: Served, parser: str) -> Served:
    """What Go renders, and a parser of Ollama's own reads."""
    others = tuple(one for one in served.differences if one != CALLS_STAY)
    said = f"Ollama's own parser {parser!r} decides what in an answer is a tool call"
    return replace(
        served,
        reason=f"{served.reason}, and Ollama's own parser {parser!r} finds the calls in answers",
        splits_thinking=served.thinking,
        reads_calls=True,
        differences=(*others, said),
    )


def _by_renderer(template: ChatTemplate, renderer: Renderer) -> Served:
    return Served(
        "renderer",
        None,
        f"Ollama's own renderer {renderer.name!r} renders as the chat template does in "
        f"{renderer.conversations} conversations, and Go cannot express all of it",
        tools=takes_tools(template),
        thinking=shows_thinking(template),
        splits_thinking=shows_thinking(template),
        conversations=renderer.conversations,
        differences=(
            "an answer that is to be continued: Ollama's own renderers may close it",
            f"Ollama's own parser {renderer.parser!r} decides what in an answer is thinking and "
            "what is a tool call",
            *out_of_reach(template),
        ),
    )
