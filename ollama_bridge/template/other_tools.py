"""How a chat template writes tools where no Go template can: what to tell whoever misses them."""

from __future__ import annotations

import json
from collections.abc import Iterator

from ollama_bridge.template.jinja import ChatTemplate
from ollama_bridge.template.marked_conversations import fill, takes_system


def describe_tools(template: ChatTemplate) -> str:
    """Why its tools cannot be said in Go.

    They are written neither as ``json.dumps`` does nor as Python prints them.

    Raises:
        RefusedError: the template raises where there are tools.
    """
    asked = fill("u", system=takes_system(template), tools=1, think=None)
    text = template.render(asked)
    tool, function = asked.tools[0], asked.tools[0]["function"]
    parameters = function["parameters"]
    objects = list(_objects(text))
    if function["name"] not in text:
        return "it does not write what a tool is called"
    if tool in objects or function in objects:
        return "it writes tools as JSON with other spaces, or keys in another order"
    if any(function["name"] in one.values() for one in objects):
        return "it writes tools as JSON with keys of its own"
    if repr(parameters) in text:
        return "it writes each part of a tool by itself, the parameters as Python prints them"
    if parameters in objects:
        return "it writes each part of a tool by itself, the parameters alone as JSON"
    return "it writes tools in a form of its own, not as JSON"


def _objects(text: str) -> Iterator[dict[str, object]]:
    """Every JSON object in a text, those in others too."""
    decoder = json.JSONDecoder()
    place = text.find("{")
    while place >= 0:
        try:
            found, _ = decoder.raw_decode(text, place)
            yield found
        except ValueError:
            pass
        place = text.find("{", place + 1)
