"""Runs a parsed Go template on a conversation, as Ollama's ``template.Execute`` does.

Only what :mod:`ollama_bridge.template.go_parse` reads. A live test holds it against the daemon.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from ollama_bridge.errors import TemplateError
from ollama_bridge.template.conversation import Conversation
from ollama_bridge.template.go_functions import FUNCTIONS, Struct, printed
from ollama_bridge.template.go_parse import (
    Assign,
    Call,
    Define,
    Expression,
    Field,
    If,
    Leave,
    Literal,
    Node,
    Output,
    Range,
    Text,
    Use,
    parse,
)


class GoTemplate:
    """A Go template of the subset.

    Raises:
        TemplateError: it cannot be read.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._nodes = parse(source)
        self._written: dict[tuple[str, str], str] = {}

    def render(self, conversation: Conversation, *, today: date | None = None) -> str:
        """The prompt that Ollama makes of a conversation.

        Raises:
            TemplateError: where Go would fail.
        """
        values = _template_values(conversation)
        run = _Run(today or date.today(), self._written)
        run.execute(self._nodes, values, {"$": values})
        return "".join(run.parts)


def _template_values(conversation: Conversation) -> dict[str, Any]:
    """What a template sees: ``collate`` has merged turns of one role."""
    messages: list[dict[str, Any]] = []
    systems = []
    for message in conversation.messages:
        if message.role == "system":
            systems.append(message.content)
        if messages and messages[-1]["Role"] == message.role and message.role != "tool":
            messages[-1]["Content"] += "\n\n" + message.content
            continue
        messages.append(
            {
                "Role": message.role,
                "Content": message.content,
                "Thinking": message.thinking,
                "ToolCalls": [
                    {
                        "ID": call.id,
                        "Function": {"Name": call.name, "Arguments": dict(call.arguments)},
                    }
                    for call in message.calls
                ],
                "ToolName": message.name,
                "ToolCallID": message.call_id,
            }
        )
    return {
        "System": "\n\n".join(systems),
        "Messages": messages,
        "Tools": [_tool(tool) for tool in conversation.tools],
        "Response": "",
        "Think": bool(conversation.think),
        "IsThinkSet": conversation.think is not None,
    }


def _tool(tool: Mapping[str, Any]) -> Struct:
    function = tool["function"]
    parameters = function["parameters"]
    properties = {name: _property(value) for name, value in parameters["properties"].items()}
    required = list(parameters.get("required", ()))
    inner: dict[str, Any] = {"type": parameters["type"]}
    if required:
        inner["required"] = required
    inner["properties"] = dict(sorted(properties.items()))
    described = {
        "Type": parameters["type"],
        "Required": required,
        "Properties": properties,
    }
    name, description = function["name"], function.get("description", "")
    written = {"name": name, "description": description, "parameters": inner}
    return Struct(
        {
            "Type": tool["type"],
            "Function": Struct(
                {
                    "Name": name,
                    "Description": description,
                    "Parameters": Struct(described, inner),
                },
                written,
            ),
        },
        {"type": tool["type"], "function": written},
    )


_PROPERTY_KEYS = ("anyOf", "type", "items", "description", "enum", "properties", "required")


def _property(value: Mapping[str, Any]) -> Struct:
    there = {key for key in _PROPERTY_KEYS if value.get(key)}
    if value.get("items") is not None:  # of any type: Go leaves out nil, and nothing that is empty
        there.add("items")
    written = {key: value[key] for key in _PROPERTY_KEYS if key in there}
    fields: dict[str, Any] = {key[0].upper() + key[1:]: value.get(key) for key in _PROPERTY_KEYS}
    kind = value.get("type", [])
    fields["Type"] = [kind] if isinstance(kind, str) else list(kind)
    fields["AnyOf"] = [_property(inner) for inner in value.get("anyOf", ())]
    if fields["Properties"]:
        inner = {name: _property(item) for name, item in fields["Properties"].items()}
        fields["Properties"] = {"ToMap": inner}
    return Struct(fields, written)


class _LeftError(Exception):
    def __init__(self, kind: str) -> None:
        self.kind = kind


class _Run:
    def __init__(self, today: date, written: dict[tuple[str, str], str]) -> None:
        self.parts: list[str] = []
        self._written = written  # what defined templates make of a text: always the same
        self._today = today
        self._defined: dict[str, Define] = {}

    def execute(self, nodes: Sequence[Node], dot: Any, scope: dict[str, Any]) -> None:
        """Run nodes; variables that they declare live in ``scope``."""
        for node in nodes:
            if isinstance(node, Text):
                self.parts.append(node.text)
            elif isinstance(node, Output):
                self.parts.append(printed(self._value(node.value, dot, scope)))
            elif isinstance(node, Assign):
                self._assign(node, dot, scope)
            elif isinstance(node, If):
                truth = bool(self._value(node.condition, dot, scope))
                self.execute(node.then if truth else node.otherwise, dot, _Scope(scope))
            elif isinstance(node, Range):
                self._range(node, dot, scope)
            elif isinstance(node, Leave):
                raise _LeftError(node.kind)
            elif isinstance(node, Define):
                self._defined[node.name] = node
            elif isinstance(node, Use):
                self._use(node.name, self._value(node.value, dot, scope))

    def _use(self, name: str, value: Any) -> None:
        if name not in self._defined:
            raise TemplateError(f"the Go template uses {name!r}, which is not defined")
        known = self._written.get((name, value)) if isinstance(value, str) else None
        if known is not None:
            self.parts.append(known)
            return
        start = len(self.parts)
        self.execute(self._defined[name].body, value, {"$": value})
        if isinstance(value, str):
            self._written[name, value] = "".join(self.parts[start:])

    def _assign(self, node: Assign, dot: Any, scope: dict[str, Any]) -> None:
        value = self._value(node.value, dot, scope)
        if node.declares:
            scope[node.name] = value
            return
        place: dict[str, Any] | None = scope
        while isinstance(place, _Scope) and not dict.__contains__(place, node.name):
            place = place.outer
        if place is None or node.name not in place:
            raise TemplateError(f"the Go template assigns {node.name}, which is not declared")
        place[node.name] = value

    def _range(self, node: Range, dot: Any, scope: dict[str, Any]) -> None:
        over = self._value(node.value, dot, scope)
        pairs: list[tuple[Any, Any]]
        if isinstance(over, Mapping):
            pairs = sorted(over.items())
        elif isinstance(over, int):
            pairs = [(index, index) for index in range(over)]
        else:
            pairs = list(enumerate(over))
        for key, value in pairs:
            inner = _Scope(scope)
            if len(node.names) == 1:
                inner[node.names[0]] = value
            elif node.names:
                inner[node.names[0]], inner[node.names[1]] = key, value
            try:
                self.execute(node.body, value, inner)
            except _LeftError as left:
                if left.kind == "break":
                    return

    def _value(self, expression: Expression, dot: Any, scope: Mapping[str, Any]) -> Any:
        if isinstance(expression, Literal):
            return expression.value
        if isinstance(expression, Field):
            if expression.base is not None and expression.base not in scope:
                raise TemplateError(f"the Go template reads {expression.base}: not declared")
            value = dot if expression.base is None else scope[expression.base]
            for name in expression.names:
                if not isinstance(value, Mapping) or name not in value:
                    raise TemplateError(f"the Go template reads .{name}, which is not there")
                value = value[name]
            return value
        return self._call(expression, dot, scope)

    def _call(self, call: Call, dot: Any, scope: Mapping[str, Any]) -> Any:
        name = call.function
        if name in ("and", "or"):  # the only ones that stop early
            value: Any = None
            for argument in call.arguments:
                value = self._value(argument, dot, scope)
                if bool(value) == (name == "or"):
                    break
            return value
        values = [self._value(argument, dot, scope) for argument in call.arguments]
        if name == "currentDate":
            return self._today.isoformat()
        function = FUNCTIONS.get(name)
        if function is None:
            raise TemplateError(f"the Go template calls {name}, which is not supported")
        return function(*values)


class _Scope(dict[str, Any]):
    """Variables of a block; those outside of it can be read and assigned."""

    def __init__(self, outer: dict[str, Any]) -> None:
        super().__init__()
        self.outer = outer

    def __missing__(self, name: str) -> Any:
        return self.outer[name]

    def __contains__(self, name: object) -> bool:
        return dict.__contains__(self, name) or name in self.outer
