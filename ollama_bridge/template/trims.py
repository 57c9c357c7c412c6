"""Where a chat template cuts white space off what was said or thought."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ollama_bridge.template.conversation import Conversation
from ollama_bridge.template.decisions import ConflictError, Leaf, Sample, Tree, learn
from ollama_bridge.template.format import OF_LINES, Trim
from ollama_bridge.template.jinja import ChatTemplate, RefusedError
from ollama_bridge.template.marked_conversations import fill
from ollama_bridge.template.notation import Notation
from ollama_bridge.template.observation import Observation, observe

_SPACE = " \n"
_THOUGHTS = 8  # conversations in which the white space around a thought is looked at


def find_trims(
    template: ChatTemplate, notation: Notation, *, tools: bool
) -> tuple[dict[str, Tree[Trim]], list[str]]:
    """Where white space around a message is cut off, by role, and what cannot be said of it."""
    samples: dict[str, list[Sample[Trim]]] = {}
    limits = []
    for conversation in _trim_cases(template, tools=tools):
        for number, message in enumerate(conversation.messages):
            if not message.content or (message.role == "tool" and notation.quoted_results):
                continue
            if message.content not in template.render(conversation):
                continue  # left out here
            kind = _trim_of(template, conversation, number)
            if kind is None:
                limits.append(
                    f"white space around the {message.role}'s message is changed in a way of the "
                    "chat template's own"
                )
                continue
            facts = observe(template, conversation, notation).facts(number)
            samples.setdefault(message.role, []).append(Sample(facts, kind, conversation))
    trims = {}
    for role, seen in samples.items():
        try:
            trims[role] = learn(seen)
        except ConflictError:
            trims[role] = Leaf("")
            limits.append(f"white space around the {role}'s message is cut off at some places only")
    return trims, list(dict.fromkeys(limits))


def _trim_cases(template: ChatTemplate, *, tools: bool) -> Iterator[Conversation]:
    shapes = ["u", "uau", "uauau", "uauaua", *(["ustau", "usta"] if tools else [])]
    for shape in shapes:
        for system in (False, True):
            conversation = fill(shape, system=system, tools=int("t" in shape), think=None)
            try:
                template.render(conversation)
            except RefusedError:
                continue
            yield conversation


def find_thought_trim(
    template: ChatTemplate, seen: Iterable[Observation]
) -> tuple[Trim, list[str]]:
    """What white space around a thought is cut off, and what cannot be said of it.

    Ollama gives a thought with the line end before its closing tag, and clients send it back so.

    Args:
        template: The chat template.
        seen: Where the thoughts of conversations stand.
    """
    places: dict[tuple[int, int], Conversation] = {}
    for one in seen:
        length = len(one.conversation.messages)
        for hole in one.holes:
            if hole.kind == "thinking" and len(places) < _THOUGHTS:
                places.setdefault((length, hole.message), one.conversation)
    kinds = {
        _trim_of(template, conversation, number, thought=True)
        for (_, number), conversation in places.items()
    }
    if len(kinds) == 1 and None not in kinds:
        return kinds.pop() or "", []
    return "", ["white space around a thought is changed in a way of the chat template's own"]


def _trim_of(
    template: ChatTemplate, conversation: Conversation, number: int, *, thought: bool = False
) -> Trim | None:
    """What is cut off one message's text, or off its thought; None: something else is changed."""
    message = conversation.messages[number]
    said = message.thinking if thought else message.content

    def render(text: str) -> str:
        changed = replace(message, thinking=text) if thought else replace(message, content=text)
        messages = (*conversation.messages[:number], changed, *conversation.messages[number + 1 :])
        return template.render(replace(conversation, messages=messages))

    bare = render(said)

    def find(before: str, behind: str, of: str) -> Trim | None:
        got = render(f"{before}{said}{behind}")
        ways = {f"{before}{said}{behind}": "", said: f"both{of}"}
        ways |= {f"{said}{behind}": f"left{of}", f"{before}{said}": f"right{of}"}
        return next((kind for text, kind in ways.items() if got == bare.replace(said, text)), None)

    found = find(_SPACE, _SPACE[::-1], "")
    return find("\n\n", "\n\n", OF_LINES) if thought and found == "" else found
