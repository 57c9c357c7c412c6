"""Writes a :class:`Format` as a Go template for Ollama.

Every text stands as it is between actions, for Ollama reads the tags of thinking and of tool
calls from there. A line end before ``{{-`` is eaten by it, so it is put in wherever no white
space of the format stands before it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ollama_bridge.template import affixes, answers, json_in_go
from ollama_bridge.template.decisions import Leaf, Tree, leaves, questions, transform
from ollama_bridge.template.format import OF_LINES, Fixed, Format, Trim
from ollama_bridge.template.go_functions import go_quote
from ollama_bridge.template.nodes import Code, Node, Say, Show
from ollama_bridge.template.notation import ToolForm
from ollama_bridge.template.observation import MARK, inexpressible

_MARKS = re.compile("(\ue000[^\ue001]*\ue001)")
# What Python's str.strip takes, by bytes in UTF-8.
_SPACES = (
    " \n\t\r\v\f\x1c\x1d\x1e\x1f",
    "\x85\xa0",
    "\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f"
    "\u205f\u3000",
)
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September"),
    *("October", "November", "December"),
)
_DATE_PARTS = {"Y": (0, 4), "y": (2, 4), "m": (5, 7), "d": (8, 10)}


def write(format_: Format) -> str:
    """The Go template.

    Raises:
        TemplateError: a date is written in a way that Go cannot.
    """
    return _layout(_Writer(format_).nodes())


class _Writer:
    def __init__(self, format_: Format) -> None:
        self._format = format_
        trees: tuple[Tree[Any], ...] = (
            format_.head,
            format_.user,
            format_.opening,
            format_.said,
            format_.shows_said,
            format_.prompt,
            format_.result,
            *format_.trims.values(),
            *([format_.thinking.shown] if format_.thinking else []),
        )
        self._uses: set[str] = set()
        self._asked = {condition.go for tree in trees for condition in questions(tree)}

    def nodes(self) -> list[Node]:
        body = self._body()
        found = [node for name in self._closed_uses() for node in self._define(name)]
        if any("$date" in part.text for part in body if not isinstance(part, Say)):
            found.append(Code("$date := currentDate"))
        if any("$last" in asked for asked in self._asked):
            found += [Code("$last := -1"), Code("range $i, $_ := .Messages")]
            found += [Code('if eq .Role "user"'), Code("$last = $i"), Code("end"), Code("end")]
        if self._asks("$previous"):
            found.append(Code('$previous := ""'))
        return [*found, *body]

    def _closed_uses(self) -> list[str]:
        """The templates that are used, by the body or by each other."""
        found = set(self._uses)
        while True:
            inner = {
                name
                for used in found
                for node in self._define(used)
                for name in re.findall(r'^template "([^"]+)"', node.text)
            }
            if inner <= found:
                return sorted(found)
            found |= inner

    def _define(self, name: str) -> list[Node]:
        form = self._format.notation.tool or ToolForm(whole=True, indent=None)
        each = self._format.notation.arguments
        if each is not None and name in (written := each.go()):
            return [Code(f'define "{name}"'), *written[name], Code("end")]
        inner, _, level = name.partition("-at-")
        if level and inner == "value":
            return [Code(f'define "{name}"'), *json_in_go.value_at(form, int(level)), Code("end")]
        if level:
            return [Code(f'define "{name}"'), *json_in_go.property_(form, int(level)), Code("end")]
        bodies: dict[str, Callable[[], list[Node]]] = {
            "string": json_in_go.string,
            "value": json_in_go.value,
            "object": json_in_go.object_,
            "printed-string": json_in_go.printed_string,
            "printed-value": lambda: json_in_go.value(printed=True),
            "printed-object": lambda: json_in_go.object_(printed=True),
            "property": lambda: json_in_go.property_(form),
            "tool": lambda: json_in_go.tool(form),
        }
        for of, spaces in (("", _SPACES), (OF_LINES, ("\n",))):
            bodies |= {
                _named(f"both{of}"): functools.partial(_trimmed, spaces, left=True, right=True),
                _named(f"left{of}"): functools.partial(_trimmed, spaces, left=True, right=False),
                _named(f"right{of}"): functools.partial(_trimmed, spaces, left=False, right=True),
            }
        return [Code(f'define "{name}"'), *bodies[name](), Code("end")]

    def _use(self, name: str, value: str) -> Node:
        self._uses.add(name)
        return Show(f'template "{name}" {value}')

    def _asks(self, name: str) -> bool:
        return any(name in asked for asked in self._asked)

    def _body(self) -> list[Node]:
        format_ = self._format
        found = self._text(format_.head)
        found.append(Code("range $i, $_ := .Messages"))
        found.append(Code("$final := eq (len (slice $.Messages $i)) 1"))
        found += [Code('if eq .Role "user"'), *self._user()]
        found += [Code('else if eq .Role "assistant"'), *self._assistant()]
        if format_.tools:
            found += [Code('else if eq .Role "tool"'), *self._result()]
        found.append(Code("end"))
        if self._asks("$previous"):
            found += [Code('if ne .Role "system"'), Code("$previous = .Role"), Code("end")]
        found += [Code('if and $final (ne .Role "assistant")'), *self._text(format_.prompt)]
        found += [Code("end"), Code("end")]
        return found

    def _user(self) -> list[Node]:
        format_ = self._format
        return [*self._text(format_.user), *self._content("user"), *_say(format_.user_end)]

    def _assistant(self) -> list[Node]:
        format_ = self._format
        found: list[Node] = []
        thinking, calls = format_.thinking, format_.calls
        # A model does not write what its prompt ends with: Ollama would never find it as a tag.
        given = answers.given(format_, calls.head) if calls is not None else ""
        if self._asks("$calls") or (calls and (calls.space or calls.separator or given)):
            found.append(Code("$calls := .ToolCalls"))
        if self._asks("$thinking") or thinking is not None:
            found.append(Code("$thinking := .Thinking"))
        found += self._text(format_.opening)
        if thinking is not None:
            # Ollama takes the tags from the list of nodes that holds .Thinking.
            shown = self._when(
                thinking.shown,
                [
                    Code("if $thinking"),
                    Say(thinking.opening),
                    *self._trim(Leaf(thinking.trim), ".Thinking"),
                    Say(thinking.closing),
                    Code("else"),
                    *self._text(format_.said),
                    Code("end"),
                ],
                self._text(format_.said),
            )
            found += shown
        else:
            found += self._text(format_.said)
        found += self._when(format_.shows_said, self._content("assistant"), [])
        end: list[Node] = []
        if format_.end:
            end = [Code("if not $final"), *self._text(Leaf(format_.end)), Code("end")]
        if calls is None:
            return [*found, *end]
        if calls.space:
            found += [Code("if and .Content $calls"), Say(calls.space), Code("end")]
        if given:
            found += [Code("if $calls"), Say(given), Code("end")]
        found += [Code("if .ToolCalls"), *_say(calls.head.removeprefix(given))]
        found += [Code("range $n, $_ := .ToolCalls"), *_say(calls.opening)]
        found += _parts(
            calls.parts,
            {
                "name": [Show(".Function.Name")],
                "arguments": [
                    self._use(
                        "object" if format_.notation.arguments is None else "arguments",
                        ".Function.Arguments",
                    )
                ],
                "id": [Show(".ID")],
            },
        )
        found += _say(calls.closing)
        if calls.separator:
            found += [Code("if gt (len (slice $calls $n)) 1"), Say(calls.separator), Code("end")]
        found += [Code("end"), *self._text(Leaf(calls.tail))]
        return [*found, *([Code("else"), *end] if end else []), Code("end")]

    def _result(self) -> list[Node]:
        format_ = self._format
        content: list[Node] = (
            [self._use("string", ".Content")]
            if format_.notation.quoted_results
            else self._content("tool")
        )
        parts: dict[str, list[Node]] = {
            "content": content,
            "name": [Show(".ToolName")],
            "id": [Show(".ToolCallID")],
        }
        return [
            *self._text(format_.result),
            *_parts(format_.result_parts, parts),
            *_say(format_.result_end),
        ]

    def _content(self, role: str) -> list[Node]:
        return self._trim(self._format.trims.get(role, Leaf("")), ".Content")

    def _trim(self, tree: Tree[str], value: str) -> list[Node]:
        if not isinstance(tree, Leaf):
            return self._branch(
                tree.condition.go, self._trim(tree.yes, value), self._trim(tree.no, value)
            )
        if not tree.value:
            return [Show(value)]
        return [self._use(_named(tree.value), value)]

    def _when(self, tree: Tree[bool], yes: list[Node], no: list[Node]) -> list[Node]:
        if isinstance(tree, Leaf):
            return yes if tree.value else no
        return self._branch(
            tree.condition.go, self._when(tree.yes, yes, no), self._when(tree.no, yes, no)
        )

    def _text(self, tree: Tree[str]) -> list[Node]:
        if isinstance(tree, Leaf):
            return [node for part in _MARKS.split(tree.value) for node in self._part(part)]
        # What all answers begin and end with is written once.
        before = affixes.common_prefix(leaves(tree))
        tree = transform(tree, lambda text: text.removeprefix(before))
        behind = affixes.common_suffix(leaves(tree))
        tree = transform(tree, lambda text: text.removesuffix(behind))
        if isinstance(tree, Leaf):
            return self._text(Leaf(before + tree.value + behind))
        yes, no = self._text(tree.yes), self._text(tree.no)
        return [
            *self._text(Leaf(before)),
            *self._branch(tree.condition.go, yes, no),
            *self._text(Leaf(behind)),
        ]

    def _branch(self, condition: str, yes: list[Node], no: list[Node]) -> list[Node]:
        if yes == no:
            return yes
        if not yes:
            return [Code(f"if not ({condition})"), *no, Code("end")]
        return [Code(f"if {condition}"), *yes, *([Code("else"), *no] if no else []), Code("end")]

    def _part(self, text: str) -> list[Node]:
        """A text, or what a mark stands for."""
        mark = MARK.fullmatch(text)
        if mark is None:
            return _say(text)
        kind, _, form = mark[1].partition(" ")
        if kind == "system":
            return self._trim(self._format.trims.get("system", Leaf("")), "$.System")
        if kind == "date":
            return _date(form)
        separator = self._format.tool_separator
        found: list[Node] = [Code("range $n, $tool := $.Tools")]
        if separator:
            found += [Code("if $n"), Say(separator), Code("end")]
        return [*found, self._use("tool", "$tool"), Code("end")]


def _parts(fixed: Fixed, written: Mapping[str, Sequence[Node]]) -> list[Node]:
    found: list[Node] = []
    for kind, behind in zip(fixed.kinds, (*fixed.between, ""), strict=True):
        found += [*written[kind], *_say(behind)]
    return found


def _say(text: str) -> list[Node]:
    return [Say(text)] if text else []


def _named(trim: Trim) -> str:
    """What the template is called that trims so."""
    return (
        trim.removeprefix("both ").replace(" ", "-") + "-trimmed" if trim != "both" else "trimmed"
    )


def _trimmed(groups: Sequence[str], *, left: bool, right: bool) -> list[Node]:
    found: list[Node] = [Code("$text := .")]
    return [
        *found,
        *(_trim_left(groups) if left else []),
        *(_trim_right(groups) if right else []),
        Show("$text"),
    ]


def _trim_left(groups: Sequence[str]) -> list[Node]:
    spaces = " ".join(go_quote(space) for group in groups for space in group)
    return [
        Code("range len $text"),
        Code('$first := printf "%.1s" $text'),
        Code(f"if eq $first {spaces}"),
        Code("$text = slice $text (len $first)"),
        Code("else"),
        Code("break"),
        Code("end"),
        Code("end"),
    ]


def _trim_right(groups: Sequence[str]) -> list[Node]:
    found = [Code("range len $text"), Code("if not $text"), Code("break")]
    for size, group in enumerate(groups, start=1):
        spaces = " ".join(go_quote(space) for space in group)
        start = f"(len (slice $text {size}))"  # Go templates cannot subtract
        end = f"eq (slice $text {start}) {spaces}"
        if size > 1:
            end = f"and (ge (len $text) {size}) ({end})"
        found += [Code(f"else if {end}"), Code(f"$text = slice $text 0 {start}")]
    return [*found, Code("else"), Code("break"), Code("end"), Code("end")]


def _date(form: str) -> list[Node]:
    found: list[Node] = []
    for text, directive in re.findall(r"([^%]+)|%(.?)", form):
        if text:
            found += _say(text)
        elif directive in _DATE_PARTS:
            start, stop = _DATE_PARTS[directive]
            found.append(Show(f"slice $date {start} {stop}"))
        elif directive in ("B", "b"):
            for number, month in enumerate(_MONTHS, start=1):
                name = month if directive == "B" else month[:3]
                test = f'eq (slice $date 5 7) "{number:02}"'
                found += [Code(f"if {test}" if number == 1 else f"else if {test}"), Say(name)]
            found.append(Code("end"))
        else:
            raise inexpressible(f"Go cannot write a date as {form!r}")
    return found


def _layout(nodes: Sequence[Node]) -> str:
    parts: list[str] = []
    space_before = True  # nothing stands before the first
    for node in nodes:
        if isinstance(node, Say):
            text = node.text.replace("{{", '{{ "{{" }}')
            if text.endswith("{"):  # what follows may begin with {{
                text = text[:-1] + '{{ "{" }}'
            parts.append(text)
            space_before = node.text[-1].isspace()
        elif isinstance(node, Show):
            parts.append(f"{{{{ {node.text} }}}}")
            space_before = False
        else:
            parts.append(f"{{{{ {node.text} }}}}" if space_before else f"\n{{{{- {node.text} }}}}")
            space_before = False
    return "".join(parts)
