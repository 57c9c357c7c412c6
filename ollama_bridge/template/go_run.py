"""Runs a parsed Go template on a conversation, as Ollama's ``template.Execute`` does.

Only what :mod:`ollama_bridge.template.go_parse` reads. A live test holds it against the daemon.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from ollama_bridge.errors import TemplateError
from ollama_bridge.template.conversation import Conversation
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

_SHORT_ESCAPES = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    '"': '\\"',
    "\\": "\\\\",
}


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
        values = template_values(conversation)
        run = _Run(today or date.today(), self._written)
        run.execute(self._nodes, values, {"$": values})
        return "".join(run.parts)


def template_values(conversation: Conversation) -> dict[str, Any]:
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


class _Struct(dict[str, Any]):
    """A Go struct that ``json`` writes with its own names, in their order."""

    def __init__(self, fields: Mapping[str, Any], written: Mapping[str, Any]) -> None:
        super().__init__(fields)
        self.written = dict(written)


def _tool(tool: Mapping[str, Any]) -> _Struct:
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
    return _Struct(
        {
            "Type": tool["type"],
            "Function": _Struct(
                {
                    "Name": name,
                    "Description": description,
                    "Parameters": _Struct(described, inner),
                },
                written,
            ),
        },
        {"type": tool["type"], "function": written},
    )


_PROPERTY_KEYS = ("anyOf", "type", "items", "description", "enum", "properties", "required")


def _property(value: Mapping[str, Any]) -> _Struct:
    written = {key: value[key] for key in _PROPERTY_KEYS if value.get(key)}
    fields: dict[str, Any] = {key[0].upper() + key[1:]: value.get(key) for key in _PROPERTY_KEYS}
    kind = value.get("type", [])
    fields["Type"] = [kind] if isinstance(kind, str) else list(kind)
    fields["AnyOf"] = [_property(inner) for inner in value.get("anyOf", ())]
    if fields["Properties"]:
        inner = {name: _property(item) for name, item in fields["Properties"].items()}
        fields["Properties"] = {"ToMap": inner}
    return _Struct(fields, written)


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
                self.parts.append(_printed(self._value(node.value, dot, scope)))
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
        function = _FUNCTIONS.get(name)
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


def _slice(value: Any, *bounds: int) -> Any:
    if isinstance(value, str) and not value.isascii():
        data: Any = value.encode(errors="surrogateescape")
    else:
        data = value
    low = bounds[0] if bounds else 0
    high = bounds[1] if len(bounds) > 1 else len(data)
    if not 0 <= low <= high <= len(data):
        raise TemplateError(f"the Go template slices [{low}:{high}] of {len(data)}")
    part = data[low:high]
    return part.decode(errors="surrogateescape") if isinstance(part, bytes) else part


def _length(value: Any) -> int:
    if isinstance(value, str) and not value.isascii():
        return len(value.encode(errors="surrogateescape"))
    return len(value)


def _format(form: str, *values: Any) -> str:
    if len(values) == 1:
        if form == "%x":
            return str(values[0]).encode().hex()
        if form == "%T":
            return _type_name(values[0])
        if form == "%q":
            return go_quote(str(values[0]))
        if form == '"%s"':
            return f'"{values[0]}"'
        if match := re.fullmatch(r"%\.(\d+)s", form):
            return str(values[0])[: int(match[1])]
    raise TemplateError(f"the Go template uses printf {form!r}, which is not supported")


def _type_name(value: Any) -> str:
    kinds = {
        str: "string",
        bool: "bool",
        int: "float64",
        float: "float64",
        dict: "map[string]interface {}",
        list: "[]interface {}",
        type(None): "<nil>",
    }
    return kinds.get(type(value), "other")


def go_quote(text: str) -> str:
    """``strconv.Quote``."""
    parts = []
    for character in text:
        code = ord(character)
        if character in _SHORT_ESCAPES:
            parts.append(_SHORT_ESCAPES[character])
        elif character.isprintable():
            parts.append(character)
        elif code < 0x80:
            parts.append(f"\\x{code:02x}")
        else:
            parts.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return '"' + "".join(parts) + '"'


def go_json(value: Any) -> str:
    """``json.Marshal``: compact, maps sorted, ``<``, ``>`` and ``&`` as escapes."""
    text = _json(value)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _json(value: Any) -> str:
    if isinstance(value, _Struct):
        value = value.written
        return "{" + ",".join(f"{_json(k)}:{_json(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_json(k)}:{_json(v)}" for k, v in sorted(value.items())) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_json(item) for item in value) + "]"
    if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool)):
        return _number(float(value))
    return json.dumps(value, ensure_ascii=False)


def _number(value: float) -> str:
    if value == 0:
        return "-0" if math.copysign(1, value) < 0 else "0"
    if 1e-6 <= abs(value) < 1e21:
        text = f"{value:.0f}" if value.is_integer() else repr(value)
        return text if "e" not in text else f"{value:.20f}".rstrip("0")
    mantissa, _, exponent = repr(value).partition("e")
    sign = exponent[0] if exponent[0] in "+-" else "+"
    return f"{mantissa.removesuffix('.0')}e{sign}{exponent.lstrip('+-').zfill(2)}"


def _printed(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Mapping | list):  # the types of Ollama that print as JSON
        return go_json(value)
    raise TemplateError(f"the Go template prints a {type(value).__name__}")


_FUNCTIONS: Mapping[str, Any] = {
    "not": lambda value: not value,
    "eq": lambda first, *others: any(first == other for other in others),
    "ne": lambda first, second: first != second,
    "lt": lambda first, second: first < second,
    "le": lambda first, second: first <= second,
    "gt": lambda first, second: first > second,
    "ge": lambda first, second: first >= second,
    "len": _length,
    "index": lambda value, place: value[place],
    "slice": _slice,
    "printf": _format,
    "json": go_json,
}
