"""Runs a parsed Go template on a conversation, as Ollama's ``template.Execute`` does.

Only what :mod:`ollama_bridge.template.go_parse` reads. A live test holds it against the daemon.
A template is rendered for thousands of conversations to find out what it does, so its nodes become
functions once, and its variables places in a list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
        nodes = parse(source)
        self._body = _Body([node for node in nodes if not isinstance(node, Define)])
        self._defined = {node.name: _Body(node.body) for node in nodes if isinstance(node, Define)}
        self._written: dict[tuple[str, str], str] = {}

    def render(self, conversation: Conversation, *, today: date | None = None) -> str:
        """The prompt that Ollama makes of a conversation.

        Raises:
            TemplateError: where Go would fail.
        """
        run = _Run(today or date.today(), self._defined, self._written)
        self._body.execute(run, _template_values(conversation))
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
    # Go leaves out what is empty, but of these: items of any type, an object of no properties.
    there = {key for key in _PROPERTY_KEYS if value.get(key)}
    there |= {key for key in ("items", "properties") if value.get(key) is not None}
    fields: dict[str, Any] = {key: value.get(key) for key in _PROPERTY_KEYS}
    fields["anyOf"] = [_property(inner) for inner in value.get("anyOf", ())]
    if "properties" in there:
        inner = {name: _property(item) for name, item in value["properties"].items()}
        fields["properties"] = Struct({"ToMap": inner}, inner)
    written = {key: fields[key] for key in _PROPERTY_KEYS if key in there}
    kind = value.get("type", [])
    fields["type"] = [kind] if isinstance(kind, str) else list(kind)
    return Struct({key[0].upper() + key[1:]: field for key, field in fields.items()}, written)


@dataclass
class _Run:
    """One rendering.

    Attributes:
        today: What ``currentDate`` says.
        defined: Templates by name.
        written: What these make of a text, which is always the same.
        parts: What was written so far.
    """

    today: date
    defined: Mapping[str, _Body]
    written: dict[tuple[str, str], str]
    parts: list[str] = field(default_factory=list)


# Of a run, the dot, and the variables by their places.
_Value = Callable[[_Run, Any, list[Any]], Any]
# The same, and which of `break` and `continue` was met.
_Step = Callable[[_Run, Any, list[Any]], str | None]


class _Body:
    """What is written of one value, the root's or that of a defined template, as functions.

    Raises:
        TemplateError: a variable is not declared.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._blocks: list[dict[str, int]] = [{"$": 0}]
        self._size = 1
        self._loops = 0  # around what is read
        self._steps = self._block(nodes)

    def execute(self, run: _Run, value: Any) -> None:
        """Write what comes of a value."""
        variables = [None] * self._size
        variables[0] = value
        self._steps(run, value, variables)

    def _block(self, nodes: Sequence[Node], declared: Sequence[str] = ()) -> _Step:
        """Nodes with variables of their own, some of which are given a value around them."""
        self._blocks.append({})
        for name in declared:
            self._declare(name)
        steps = [self._step(node) for node in nodes]
        self._blocks.pop()

        def execute(run: _Run, dot: Any, variables: list[Any]) -> str | None:
            for step in steps:
                left = step(run, dot, variables)
                if left is not None:
                    return left
            return None

        return steps[0] if len(steps) == 1 else execute

    def _declare(self, name: str) -> int:
        place = self._blocks[-1][name] = self._size
        self._size += 1
        return place

    def _place(self, name: str, does: str) -> int:
        for block in reversed(self._blocks):
            if name in block:
                return block[name]
        raise TemplateError(f"the Go template {does} {name}, which is not declared")

    def _step(self, node: Node) -> _Step:
        match node:
            case Text():
                return _text(node.text)
            case Output():
                return _output(self._value(node.value))
            case Assign():
                return self._assign(node)
            case If():
                return self._if(node)
            case Range():
                return self._range(node)
            case Use():
                return _use(node.name, self._value(node.value))
            case Leave():
                if not self._loops:
                    raise TemplateError(f"the Go template has a {node.kind} outside of a range")
                return _leave(node.kind)
            case Define():
                raise TemplateError(f"the Go template defines {node.name!r} inside of a block")

    def _assign(self, node: Assign) -> _Step:
        value = self._value(node.value)  # first: it may read another variable of the same name
        place = self._declare(node.name) if node.declares else self._place(node.name, "assigns")

        def assign(run: _Run, dot: Any, variables: list[Any]) -> None:
            variables[place] = value(run, dot, variables)

        return assign

    def _if(self, node: If) -> _Step:
        condition = self._value(node.condition)
        then, otherwise = self._block(node.then), self._block(node.otherwise)

        def decide(run: _Run, dot: Any, variables: list[Any]) -> str | None:
            chosen = then if condition(run, dot, variables) else otherwise
            return chosen(run, dot, variables)

        return decide

    def _range(self, node: Range) -> _Step:
        over = self._value(node.value)
        first = self._size  # places of what is declared in the block
        self._loops += 1
        body = self._block(node.body, node.names)
        self._loops -= 1
        count = len(node.names)

        def loop(run: _Run, dot: Any, variables: list[Any]) -> None:
            for key, value in _pairs(over(run, dot, variables)):
                if count == 1:
                    variables[first] = value
                elif count:
                    variables[first], variables[first + 1] = key, value
                if body(run, value, variables) == "break":
                    return

        return loop

    def _value(self, expression: Expression) -> _Value:
        match expression:
            case Literal():
                return _constant(expression.value)
            case Field():
                return self._field(expression)
            case Call():
                return _call(expression.function, [*map(self._value, expression.arguments)])

    def _field(self, read: Field) -> _Value:
        names = read.names
        if read.base is not None:
            place = self._place(read.base, "reads")
            return lambda _run, _dot, variables: _inner(variables[place], names)
        if len(names) == 1:  # the most of all
            (name,) = names
            return lambda _run, dot, _variables: _member(dot, name)
        return lambda _run, dot, _variables: _inner(dot, names)


def _text(text: str) -> _Step:
    return lambda run, _dot, _variables: run.parts.append(text)


def _output(value: _Value) -> _Step:
    return lambda run, dot, variables: run.parts.append(printed(value(run, dot, variables)))


def _leave(kind: str) -> _Step:
    return lambda _run, _dot, _variables: kind


def _constant(value: object) -> _Value:
    return lambda _run, _dot, _variables: value


def _use(name: str, value: _Value) -> _Step:
    def use(run: _Run, dot: Any, variables: list[Any]) -> None:
        given = value(run, dot, variables)
        if name not in run.defined:
            raise TemplateError(f"the Go template uses {name!r}, which is not defined")
        known = run.written.get((name, given)) if isinstance(given, str) else None
        if known is not None:
            run.parts.append(known)
            return
        start = len(run.parts)
        run.defined[name].execute(run, given)
        if isinstance(given, str):
            run.written[name, given] = "".join(run.parts[start:])

    return use


def _pairs(over: Any) -> Sequence[tuple[Any, Any]]:
    """Keys and values of what a range goes over, in Go's order."""
    if isinstance(over, Mapping):
        return sorted(over.items())
    if isinstance(over, int):
        return [(index, index) for index in range(over)]
    return list(enumerate(over))


def _inner(value: Any, names: Sequence[str]) -> Any:
    for name in names:
        value = _member(value, name)
    return value


def _member(value: Any, name: str) -> Any:
    try:
        return value[name]
    except (KeyError, TypeError) as exc:
        raise TemplateError(f"the Go template reads .{name}, which is not there") from exc


def _call(name: str, arguments: Sequence[_Value]) -> _Value:
    if name in ("and", "or"):  # the only ones that stop early
        return _until(arguments, is_true=name == "or")
    if name == "currentDate":
        return lambda run, _dot, _variables: run.today.isoformat()
    function = FUNCTIONS.get(name)
    if function is None:
        raise TemplateError(f"the Go template calls {name}, which is not supported")
    if len(arguments) == 1:
        (argument,) = arguments
        return lambda run, dot, variables: function(argument(run, dot, variables))
    return lambda run, dot, variables: function(*[one(run, dot, variables) for one in arguments])


def _until(arguments: Sequence[_Value], *, is_true: bool) -> _Value:
    """The first argument that is true, or is not; else the last."""

    def stop_early(run: _Run, dot: Any, variables: list[Any]) -> Any:
        value: Any = None
        for argument in arguments:
            value = argument(run, dot, variables)
            if bool(value) == is_true:
                break
        return value

    return stop_early
