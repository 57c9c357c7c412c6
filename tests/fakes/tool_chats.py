"""Made-up conversations in which tools are called: a lamp in each room, and a clock."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from ollama_bridge.examples import Call, Example, Message

ROOMS = ("kitchen", "cellar", "attic", "garage", "hall", "porch")


def tool(name: str, description: str, **properties: str) -> dict[str, Any]:
    """A definition in the form that a corpus has; all parameters are required.

    Args:
        properties: Types by name.
    """
    types = {key: {"type": properties[key]} for key in sorted(properties)}
    parameters: dict[str, Any] = {"type": "object", "properties": types}
    if types:
        parameters["required"] = sorted(types)
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


SET_LAMP = tool("set_lamp", "Switch a lamp.", room="string", on="boolean")
CLOCK = tool("clock", "The time.")
TOOLS = (SET_LAMP, CLOCK)


def called(**arguments: Any) -> Message:
    """An answer that calls."""
    return Message("assistant", "", (Call("set_lamp", dict(sorted(arguments.items()))),))


def example(*messages: Message, id_: str = "line-1") -> Example:
    """A conversation that is offered the tools."""
    return Example(id_, messages, id_, tools=TOOLS)


LIT = example(
    Message("user", "Light in the cellar!"),
    called(room="cellar", on=True),
    Message("tool", '{"lit": true}', name="set_lamp"),
    Message("assistant", "It is lit."),
)


def lines() -> Iterator[dict[str, Any]]:
    """Lines of a user's file: each asks to switch a lamp, asks for the time, or says thanks."""
    asks = ("{} {} please", "please {} {}", "now {} the {}", "{} my {}", "so {} our {}", "{} {}")
    for ask, room, on in itertools.product(asks, ROOMS, (True, False)):
        question = ask.format("lit" if on else "dark", room)
        function = {"name": "set_lamp", "arguments": {"room": room, "on": on}}
        yield _line(question, {"content": None, "tool_calls": [{"function": function}]})
    for ask in asks:
        function = {"name": "clock", "arguments": "{}"}
        yield _line(ask.format("time", "clock"), {"tool_calls": [{"function": function}]})
        for who in ("friend", "neighbour"):
            yield _line(ask.format("thanks", who), {"content": "Welcome."})


def _line(question: str, answer: dict[str, Any]) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", **answer}]
    return {"messages": messages, "tools": list(TOOLS)}
