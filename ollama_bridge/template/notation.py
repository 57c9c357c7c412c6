"""How a chat template writes what is more than text: tools, calls and their results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ollama_bridge.template.arguments import EachArgument, find_each
from ollama_bridge.template.conversation import Conversation
from ollama_bridge.template.jinja import ChatTemplate
from ollama_bridge.template.marked_conversations import fill, takes_system

_QUOTED = 'Xq"q\nqZ'


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


_TOOL_FORMS = (
    *(
        ToolForm(whole, indent, level)
        for whole in (True, False)
        for indent, level in ((None, 0), (4, 0), (2, 0), (4, 1), (2, 1))
    ),
    *(ToolForm(whole, None, printed=True) for whole in (True, False)),
)


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


def find_notation(template: ChatTemplate) -> Notation:
    """How the template writes tools, calls and results, as far as it writes them.

    Raises:
        RefusedError: the template raises where there are tools.
    """
    asked = fill("u", system=takes_system(template), tools=1, think=None)
    text = template.render(asked)
    # The whole contains its function, so it is tried first.
    form = next((form for form in _TOOL_FORMS if form.write(asked.tools[0]) in text), None)
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
