"""Conversations that a proof renders: a fixed set, and as many random ones as are asked for."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ollama_bridge.template.conversation import Call, Conversation, Message
from ollama_bridge.template.marked_conversations import CALLS
from ollama_bridge.template.probing import (
    CALLED_SHAPES,
    PLAIN_SHAPES,
    THOUGHT_CALLED_SHAPES,
    THOUGHT_SHAPES,
)

_TEXTS = (
    "Hi",
    "What is the capital of France?",
    "Größe, naïve café; Привет! 你好。 مرحبا हिन्दी",
    "👍🏽 👩‍👩‍👧‍👦 ❤️",
    'def f(x):\n    return {"a": [x]}  # <b>&amp;</b> \\n %s',
    "{{ .Go }} {% jinja %} [[ x ]]",
    "it's \"quoted\" and 'so'",
    "one\n\ntwo\r\n\tthree",
    "1,000.50 + 2 = ?",
    "[img-0]What is this?",  # the daemon's mark of an image
)
_THOUGHTS = ("Let me see.", "First: 1 + 1.\nThen: 2 + 2.", "Ähm … 🤔")
_SYSTEMS = ("You are a terse parrot.", "Réponds en français.\nToujours.", 'Say "yes".')
PADDINGS = ("  {}  ", "\n{}\n\n", "\t{}", "{}\r\n", "\u00a0{}\u2003", "\n\n {}\v\f")


@dataclass(frozen=True)
class Domain:
    """What conversations may hold.

    Attributes:
        system: System prompts.
        tools: Tools and calls.
        many_calls: More than one call in a message.
        thinking: Thinking of assistants.
        continued_thinking: It, in a last message that is to be continued.
        thinks: The states of ``think``.
    """

    system: bool
    tools: bool
    many_calls: bool
    thinking: bool
    continued_thinking: bool
    thinks: tuple[bool | None, ...]


def fixed(domain: Domain) -> Iterator[Conversation]:
    """Every shape in every state, with other words each time."""
    draw = random.Random(0)
    for shape in _shapes(domain):
        called = any(letter in CALLS for letter in shape)
        for system in (False, True) if domain.system else (False,):
            counts = ((1, 3) if called else (0, 1, 2)) if domain.tools else (0,)
            for count in counts:
                for think in domain.thinks:
                    yield _fill(shape, draw, system=system, tools=count, think=think)


def random_ones(domain: Domain, count: int, *, seed: int) -> Iterator[Conversation]:
    """Random conversations; the same seed gives the same ones."""
    draw = random.Random(seed)
    for _ in range(count):
        shape = _random_shape(domain, draw)
        called = any(letter in CALLS for letter in shape)
        yield _fill(
            shape,
            draw,
            system=domain.system and draw.random() < 0.5,
            tools=(draw.randint(1, 3) if called else draw.choice((0, 0, 1, 2)))
            if domain.tools
            else 0,
            think=draw.choice(domain.thinks),
        )


def _shapes(domain: Domain) -> Sequence[str]:
    shapes = [*PLAIN_SHAPES, *(THOUGHT_SHAPES if domain.thinking else ())]
    if domain.tools:
        shapes += [*CALLED_SHAPES, *(THOUGHT_CALLED_SHAPES if domain.thinking else ())]
    return [shape for shape in shapes if _belongs(shape, domain)]


def _belongs(shape: str, domain: Domain) -> bool:
    if any(CALLS.get(letter, 0) > 1 for letter in shape) and not domain.many_calls:
        return False
    return domain.continued_thinking or shape[-1] not in "r"


def _random_shape(domain: Domain, draw: random.Random) -> str:
    while True:
        shape = ""
        for _ in range(draw.randint(1, 5)):
            shape += "u"
            while domain.tools and draw.random() < 0.3:
                letter = draw.choice("csdbk" if domain.thinking else "csdb")
                shape += letter + "t" * CALLS[letter]
            shape += draw.choice("ar" if domain.thinking else "a")
        # Most requests end on what the model has to answer.
        if draw.random() < 0.7:
            shape = shape[:-1]
        if _belongs(shape, domain):
            return shape


def _fill(
    shape: str, draw: random.Random, *, system: bool, tools: int, think: bool | None
) -> Conversation:
    messages = [Message("system", draw.choice(_SYSTEMS))] if system else []
    open_calls: list[Call] = []
    questions = draw.sample(_TEXTS, k=len(_TEXTS))  # nothing is said twice
    for letter in shape:
        if letter == "u":
            messages.append(Message("user", questions.pop()))
        elif letter == "t":
            call = open_calls.pop(0)
            messages.append(Message("tool", draw.choice(_TEXTS), name=call.name, call_id=call.id))
        else:
            calls = tuple(_call(draw) for _ in range(CALLS.get(letter, 0)))
            open_calls += calls
            messages.append(
                Message(
                    "assistant",
                    draw.choice(_TEXTS) if letter in "arsb" else "",
                    thinking=draw.choice(_THOUGHTS) if letter in "rk" else "",
                    calls=calls,
                )
            )
    return Conversation(
        tuple(messages), tuple(_tool(number, draw) for number in range(tools)), think
    )


def _call(draw: random.Random) -> Call:
    arguments = draw.choice(
        (
            {},
            {"city": "Paris"},
            {"a": 1, "b": 2.5, "c": True, "d": None},
            {"expression": 'x < 3 && y > "4"'},
            {"a": {"b": [1, "two", {"c": False}], "d": {}}, "e": [], "f": "\x1b\x7f\\"},
            {"text": "Größe\n你好 👍🏽"},
        )
    )
    identity = "".join(draw.choices("abcdefghijkABCDEFGHIJK0123456789", k=9))
    return Call(draw.choice(("get_weather", "add", "search-web")), arguments, identity)


def _tool(number: int, draw: random.Random) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "city": {"type": "string", "description": 'A city\'s name, such as "Paris" <here>.'},
        "days": {"type": "integer"},
        "unit": {"type": "string", "description": "Unit.", "enum": ["celsius", "fahrenheit"]},
    }
    names = sorted(draw.sample(list(properties), draw.randint(0, 3)))
    parameters: dict[str, Any] = {
        "type": "object",
        "properties": {name: properties[name] for name in names},
    }
    if names and draw.random() < 0.7:
        parameters["required"] = names[: draw.randint(1, len(names))]
    return {
        "type": "function",
        "function": {
            "name": f"tool_{number}",
            "description": draw.choice(("Get the weather & more.", "It's a tool.")),
            "parameters": parameters,
        },
    }
