"""Knows the forms that tools, their calls and results come in, and brings them into one.

A line's tools stand beside its messages: in OpenAI's, TRL's and Ollama's form, as bare functions,
or as JSON texts of either, of all or of each (ShareGPT's and ms-swift's form, and what tables can
hold). What is left of them is what Ollama hands on to a model, in the order in which a Go template
writes it: a student would otherwise learn from other prompts than it is asked with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ollama_bridge.errors import DataError
from ollama_bridge.examples import Call, Message, handed_on

A_TOOL = (
    'tools stand beside the messages: "tools": [{"type": "function", "function": {"name": "...", '
    '"description": "...", "parameters": {...}}}]'
)
NOT_OFFERED = "which the line does not offer"
A_CALL = (
    'calls stand beside the text: {"role": "assistant", "content": null, "tool_calls": '
    '[{"function": {"name": "...", "arguments": {...}}}]}'
)
IN_TEXT = "is a call written as text"
_OF_FILES = re.compile(rb'"(?:tools|functions|tool_calls?|function_call)"')
DEFINITIONS = ("tools", "functions")
# Who speaks where the text is the call: ShareGPT's word for it, and ms-swift's.
_CALLERS = ("function_call", "tool_call")
# What templates put in front of calls. Learnt as text they would be calls of another template's.
_WRITTEN_CALL = re.compile(
    r"<(?:tool_call|function_?call|functioncall)>|<function=|\[TOOL_CALLS\]|<\|tool_call\|>"
)
# What Ollama knows of a parameter, in the order in which it hands it on (api/types.go,
# ToolProperty); the names of what is in it are sorted, as Go's templates go through them.
_OF_A_PARAMETER = ("anyOf", "type", "items", "description", "enum", "properties", "required")
# Of these Go leaves out null alone, of the others also what is empty.
_EVEN_EMPTY = ("items", "properties")
_OF_PARAMETERS = ("type", "properties", "required")
_OF_A_FUNCTION = ("name", "description", "parameters")
# What they have to be for a daemon, which answers 400 to others.
_KINDS = (("description", str, "text"), ("enum", list, "list"), ("anyOf", list, "list"))

Tools = tuple[dict[str, Any], ...]


def has_tools(path: Path) -> bool:
    """Whether a file of conversations names tools or calls anywhere, by its letters."""
    with path.open("rb") as stream:
        return any(_OF_FILES.search(line) for line in stream)


class ToolReader:
    """Reads the tools of lines.

    Attributes:
        unknown: Keys of definitions that Ollama does not hand on, in the order of their finding.
    """

    def __init__(self) -> None:
        self.unknown: dict[str, None] = {}

    def read(self, record: Mapping[str, object], *, where: str) -> Tools:
        """The tools of a line; empty: it has none.

        Raises:
            DataError: naming ``where``, the tool and what is wrong with it.
        """
        given = next((record[name] for name in DEFINITIONS if record.get(name)), None)
        try:
            offered = json.loads(given) if isinstance(given, str) else given
        except ValueError as exc:
            raise DataError(f"{where}: tools are no JSON ({exc})") from exc
        if not offered:
            return ()
        if not isinstance(offered, list):
            raise DataError(f"{where}: tools are no list")
        found: dict[str, dict[str, Any]] = {}
        for number, tool in enumerate(offered, start=1):
            function = _function(_from_json(tool))
            name = function.get("name")
            if not isinstance(name, str) or not name.strip():
                raise DataError(f"{where}: tool {number} has no name")
            if name in found:
                raise DataError(f"{where}: two tools are called {name}")
            try:
                found[name] = self._definition(function)
            except _NoSchemaError as exc:
                raise DataError(f"{where}: tool {name}: {exc}") from exc
        return tuple(found.values())

    def note(self) -> list[str]:
        """A sentence on what is not learnt of the tools, for the user."""
        if not self.unknown:
            return []
        names = ", ".join(sorted(self.unknown))
        return [f"tools have keys that Ollama hands on to no model; they are not learnt: {names}"]

    def _definition(self, function: Mapping[str, Any]) -> dict[str, Any]:
        kept = self._known(function, _OF_A_FUNCTION)
        about, schema = kept.get("description", ""), kept.get("parameters", {})
        if not isinstance(about, str):
            raise _NoSchemaError("its description is no text")
        if not isinstance(schema, dict):
            raise _NoSchemaError("its parameters are no object")
        if (
            schema
            and "properties" not in schema
            and all(isinstance(v, dict) for v in schema.values())
        ):
            schema = {"properties": schema}  # by name alone, without a schema around them
        schema = {"type": "object"} | self._known(schema, _OF_PARAMETERS)
        if not isinstance(schema["type"], str):
            raise _NoSchemaError("the type of its parameters is no text")
        _check_required(schema, "its parameters")
        parameters = {
            "type": schema["type"],
            "properties": self._properties(schema.get("properties", {})),
            "required": schema.get("required"),
        }
        if not parameters["required"]:
            del parameters["required"]
        # A Go template writes an empty description, too.
        made = {"name": kept["name"], "description": about, "parameters": parameters}
        return {"type": "function", "function": made}

    def _properties(self, given: object) -> dict[str, Any]:
        if not isinstance(given, dict):
            raise _NoSchemaError("its properties are no object")
        # Null is a gap of a table; {} takes any value.
        there = sorted(name for name in given if given[name] is not None)
        return {name: self._parameter(given[name], name) for name in there}

    def _parameter(self, given: object, name: str) -> dict[str, Any]:
        if not isinstance(given, dict):
            raise _NoSchemaError(f"its parameter {name} is no object")
        known = self._known(given, _OF_A_PARAMETER)
        kept = {key: value for key, value in known.items() if value or key in _EVEN_EMPTY}
        if not _is_type(kept.get("type", "")):
            raise _NoSchemaError(f"the type of its parameter {name} is no text")
        for key, kind, what in _KINDS:
            if not isinstance(kept.get(key, kind()), kind):
                raise _NoSchemaError(f"the {key} of its parameter {name} is no {what}")
        _check_required(kept, f"its parameter {name}")
        if isinstance(kept.get("type"), list) and len(kept["type"]) == 1:
            (kept["type"],) = kept["type"]
        if "anyOf" in kept:
            kept["anyOf"] = [self._parameter(one, name) for one in kept["anyOf"]]
        if "items" in kept:
            kept["items"] = handed_on(kept["items"])
        if "properties" in kept:
            kept["properties"] = self._properties(kept["properties"])
        return kept

    def _known(self, given: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
        """In Ollama's order; null is what dataframes write where a key is missing."""
        there = {key: value for key, value in given.items() if value is not None}
        self.unknown.update(dict.fromkeys(there.keys() - set(keys)))
        return {key: there[key] for key in keys if key in there}


class _NoSchemaError(Exception):
    """A definition that Ollama would refuse."""


def _check_required(schema: Mapping[str, Any], whose: str) -> None:
    """Of JSON schema's third draft it is a yes of each parameter: Ollama takes names alone."""
    required = schema.get("required") or []
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise _NoSchemaError(f"required of {whose} is no list of names")


def calls_tool(item: object) -> bool:
    """Whether a message calls a tool."""
    return isinstance(item, dict) and bool(
        item.get("tool_calls") or item.get("function_call") or is_spoken_call(item)
    )


def is_spoken_call(item: Mapping[str, Any]) -> bool:
    """Whether the text of a message is a call, as who speaks says."""
    return item.get("role", item.get("from")) in _CALLERS


def written_call(text: str) -> str | None:
    """What begins a call that is part of a text; None: there is none."""
    found = _WRITTEN_CALL.search(text)
    return found[0] if found else None


def calls_of(item: object, tools: Sequence[Mapping[str, Any]], *, where: str) -> tuple[Call, ...]:
    """The calls of a message; empty: it makes none.

    Arguments come by name, as a Go template writes those of past calls.

    Raises:
        DataError: a call is none, is of a tool that is not offered, or its arguments are no object.
    """
    if not isinstance(item, dict) or not calls_tool(item):
        return ()
    given = item.get("tool_calls") or item.get("function_call")
    if not given:
        given = item.get("value") or item.get("content")
    is_text, given = isinstance(given, str), _from_json(given)
    offered = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    found = []
    for call in given if isinstance(given, list) else [given]:
        function = _function(call)
        name = function.get("name")
        if not isinstance(name, str):
            raise DataError(f"{where} calls a tool without a name")
        if name not in offered:
            raise DataError(f"{where} calls {name}, {NOT_OFFERED}")
        said = function.get("arguments", function.get("parameters")) or {}
        arguments = _from_json(said)
        if not isinstance(arguments, dict):
            raise DataError(f"{where} calls {name} with arguments that are no object")
        if not _is_finite(arguments):
            raise DataError(f"{where} calls {name} with a number that JSON has not")
        if is_text or isinstance(said, str):  # no table has gaps in a text
            arguments = handed_on(arguments)
        else:
            arguments = _without_gaps(arguments, offered[name])
        found.append(Call(name, arguments, _id(call)))
    return tuple(found)


def with_results(
    turns: Sequence[Message], items: Sequence[object], *, first: int, where: str
) -> list[Message]:
    """The turns, each result with name and id of the call that it is of.

    Args:
        turns: Results among them have no name yet.
        items: Of each the message that it was made of.
        first: The number of the first among the line's messages.
        where: For messages.

    Raises:
        DataError: there is no such call in front of it, or a call with an id has none.
    """
    found: list[Message] = []
    waiting: list[Call] = []
    for place, (turn, item) in enumerate(zip(turns, items, strict=True), start=first):
        if turn.role != "tool":
            _check_answered(waiting, turns[: len(found) + 1], where=where)
            waiting = list(turn.calls)
            found.append(turn)
            continue
        of = _called(waiting, item if isinstance(item, dict) else {})
        if of is None:
            raise DataError(
                f"{where}: message {place} is a tool's result, but of no call before it"
            )
        waiting.remove(of)
        found.append(replace(turn, name=of.name, call_id=of.id))
    _check_answered(waiting, turns, where=where)
    return found


def _check_answered(waiting: Sequence[Call], turns: Sequence[Message], *, where: str) -> None:
    """Where results name their calls, each has one: no API takes a conversation without."""
    has_results = any(turn.role == "tool" for turn in turns[-2:])
    if has_results and (missed := next((call for call in waiting if call.id), None)):
        raise DataError(f"{where}: the call {missed.id} of {missed.name} has no result")


def check_order(turns: Sequence[Message], *, where: str) -> None:
    """Make sure that turns are in an order that can be learnt.

    Raises:
        DataError: naming the first that is not.
    """
    expected: tuple[str, ...] = ("user",)
    for place, turn in enumerate(turns, start=1):
        if turn.role not in expected:
            rule = "turns alternate, the user begins, a system turn comes first"
            if turn.role == "tool" or "tool" in expected:
                rule = "the results of calls follow them, and then the assistant"
            raise DataError(
                f"{where}: turn {place} is {turn.role}, expected {' or '.join(expected)} ({rule})"
            )
        if turn.role == "assistant":
            expected = ("tool",) if turn.calls else ("user",)
        else:
            expected = ("tool", "assistant") if turn.role == "tool" else ("assistant",)


def _function(item: object) -> dict[str, Any]:
    """What a definition, or a call, says of its function; empty: it is none."""
    function = item.get("function", item) if isinstance(item, dict) else None
    return function if isinstance(function, dict) else {}


def _called(waiting: Sequence[Call], item: Mapping[str, Any]) -> Call | None:
    """The call that a result is of: by its id, else by its name, else the first that has none."""
    by_id = [call for call in waiting if call.id and call.id == item.get("tool_call_id")]
    if by_id or (item.get("tool_call_id") and any(call.id for call in waiting)):
        return next(iter(by_id), None)
    name = item.get("tool_name") or item.get("name")
    return next((call for call in waiting if name in (None, "", call.name)), None)


def _without_gaps(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments without the nulls that tables write where another tool's argument would stand."""
    known = schema["properties"]
    kept = {
        name: value
        for name, value in arguments.items()
        if value is not None or _takes_null(known.get(name))
    }
    found: dict[str, Any] = handed_on(kept)
    return found


def _takes_null(parameter: Mapping[str, Any] | None) -> bool:
    if parameter is None:
        return False
    types, choices = parameter.get("type", ()), parameter.get("enum", ())
    return "null" in types or None in choices or any(map(_takes_null, parameter.get("anyOf", ())))


def _is_finite(value: object) -> bool:
    """Whether JSON can write a value: Python reads NaN, and numbers that are too large for it."""
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return False
    return True


def _is_type(value: object) -> bool:
    names = value if isinstance(value, list) else [value]
    return all(isinstance(name, str) for name in names)


def _from_json(value: object) -> Any:
    """A value, or what its text is the JSON of; None: it is neither."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def _id(call: Mapping[str, Any]) -> str:
    value = call.get("id")
    return value if isinstance(value, str) else ""
