"""How a chat template writes the arguments of a call where they are not one JSON text.

Families that mark calls up write each with its name: ``<parameter=city>Paris</parameter>``.
What stands around names and values is found by leaving arguments out and exchanging their values.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ollama_bridge.template.nodes import Code, Node, Say, Show

_ONE, _TWO = "Xkeya0Z", "Xkeyb1Z"
_SAID, _SAID_TOO = "Xsaida0Z", "Xsaidb1Z"
_QUOTED = 'Xq"q\nqZ'
_LITERALS = ({"true", "True"}, {"false", "False"}, {"null", "None"})
_NESTED: tuple[Any, ...] = ({"a": [1, "b", {"c": True}]}, [1, "b"], 2.5)


@dataclass(frozen=True)
class EachArgument:
    """Arguments one after the other.

    Attributes:
        opening: Before the first.
        middle: Between a name and its value.
        between: Between two.
        closing: Behind the last.
        quote: Around a value that is a text; None: such a value is written as JSON.
        literals: How true, false and null are written.
    """

    opening: str
    middle: str
    between: str
    closing: str
    quote: str | None
    literals: tuple[str, str, str]

    def write(self, arguments: Mapping[str, Any]) -> str:
        """The text of a call's arguments; nothing without any."""
        each = [f"{name}{self.middle}{self._value(value)}" for name, value in arguments.items()]
        return f"{self.opening}{self.between.join(each)}{self.closing}" if each else ""

    def _value(self, value: object) -> str:
        if isinstance(value, str) and self.quote is not None:
            return f"{self.quote}{value}{self.quote}"
        if value is None or isinstance(value, bool):
            return self.literals[{True: 0, False: 1, None: 2}[value]]
        return json.dumps(value, ensure_ascii=False)

    def go(self) -> dict[str, list[Node]]:
        """The bodies of the Go templates that write arguments, and a value."""
        true, false, null = self.literals
        text: list[Node] = [Show('template "string" .')]
        if self.quote is not None:
            text = [*_say(self.quote), Show("."), *_say(self.quote)]
        return {
            "arguments": [
                Code("$some := false"),
                Code("range $key, $value := ."),
                *_either("$some", self.between, self.opening),
                Show("$key"),
                Say(self.middle),
                Show('template "argument" $value'),
                Code("$some = true"),
                Code("end"),
                *_either("$some", self.closing, ""),
            ],
            "argument": [
                Code('$type := printf "%T" .'),
                Code('if eq $type "string"'),
                *text,
                Code('else if eq $type "bool"'),
                *_either(".", true, false),
                Code('else if eq $type "<nil>"'),
                Say(null),
                Code("else"),
                Show('template "value" .'),
                Code("end"),
            ],
        }


def find_each(render: Callable[[Mapping[str, Any]], str]) -> EachArgument | None:
    """How arguments are written one after the other; None: in a way of the template's own.

    Args:
        render: The prompt of a conversation with one call, for its arguments.
    """
    cut = _Cut.between(render({}), render({_ONE: _SAID}))
    if cut is None:
        return None
    said = _parts(cut.of(render({_ONE: _SAID})), _ONE, _SAID)
    number = _parts(cut.of(render({_ONE: 7})), _ONE, "7")
    if said is None or number is None or not number[1]:
        return None
    opening, middle, closing = number
    quote = said[1].removeprefix(middle)
    if said != (opening, middle + quote, quote + closing):
        return None
    both = cut.of(render({_ONE: _SAID, _TWO: _SAID_TOO}))
    before, _, behind = (both or "").partition(f"{_SAID}{quote}")
    between = behind.partition(_TWO)[0]
    literals = [
        _inner(cut.of(render({_ONE: value})), f"{opening}{_ONE}{middle}", closing) or ""
        for value in (True, False, None)
    ]
    raw = _QUOTED in render({_ONE: _QUOTED})
    true, false, null = literals
    found = EachArgument(
        opening, middle, between, closing, quote if raw else None, (true, false, null)
    )
    if before != f"{opening}{_ONE}{middle}{quote}" or not between:
        return None
    if any(literal not in known for literal, known in zip(literals, _LITERALS, strict=True)):
        return None
    values: list[Any] = [_QUOTED, *_NESTED]
    probes: list[dict[str, Any]] = [{_ONE: value} for value in values]
    probes.append({_ONE: 1, _TWO: _SAID})
    return found if all(cut.of(render(probe)) == found.write(probe) for probe in probes) else None


@dataclass(frozen=True)
class _Cut:
    """What stands before and behind the arguments of a call."""

    before: str
    behind: str

    @classmethod
    def between(cls, none: str, some: str) -> _Cut | None:
        """Where the second prompt has more than the first; at a mark, if it can be there."""
        shared = next(
            (i for i, (one, two) in enumerate(zip(none, some, strict=False)) if one != two),
            min(len(none), len(some)),
        )
        length = len(some) - len(none)
        places = [
            place
            for place in range(shared, -1, -1)
            if length > 0 and none[:place] + some[place : place + length] + none[place:] == some
        ]
        if not places:
            return None
        at = next((place for place in places if some[place] == "<"), places[0])
        return cls(none[:at], none[at:])

    def of(self, text: str) -> str | None:
        """The arguments in a prompt; None: there is more that differs."""
        return _inner(text, self.before, self.behind)


def _inner(text: str | None, before: str, behind: str) -> str | None:
    if text is None or not text.startswith(before) or not text.endswith(behind):
        return None
    if len(text) < len(before) + len(behind):
        return None
    return text[len(before) : len(text) - len(behind)]


def _parts(text: str | None, name: str, value: str) -> tuple[str, str, str] | None:
    """What stands before a name, between it and its value, and behind that."""
    if text is None or text.count(name) != 1 or text.rpartition(name)[2].count(value) != 1:
        return None
    before, _, rest = text.partition(name)
    middle, _, behind = rest.partition(value)
    return before, middle, behind


def _either(condition: str, yes: str, no: str) -> list[Node]:
    if yes == no:
        return _say(yes)
    found: list[Node] = [Code(f"if {condition}"), *_say(yes)]
    return [*found, *([Code("else"), *_say(no)] if no else []), Code("end")]


def _say(text: str) -> list[Node]:
    return [Say(text)] if text else []
