"""Conversations of marks: words that a chat template cannot write by itself."""

from __future__ import annotations

from typing import Any, Literal

from ollama_bridge.template.conversation import Call, Conversation, Message
from ollama_bridge.template.jinja import ChatTemplate, RefusedError

SYSTEM = "Xsys0Z"

# How many calls a letter of a shape makes, see `fill`.
CALLS = {"c": 1, "s": 1, "k": 1, "d": 2, "b": 2}


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
    messages = [Message("system", SYSTEM)] if system else []
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


def takes_system(template: ChatTemplate) -> bool:
    """Whether a system prompt may be given."""
    return use_of_system(template) != "refused"


def use_of_system(template: ChatTemplate) -> Literal["written", "left out", "refused"]:
    """What becomes of a system prompt: some raise, and some leave it out without a word."""
    try:
        text = template.render(fill("u", system=True, tools=0, think=None))
    except RefusedError:
        return "refused"
    return "written" if SYSTEM in text else "left out"
