"""Go template code that writes tools and arguments as ``json.dumps`` does, or as Python prints.

Go's own ``json`` writes no space behind ``:`` and ``,`` and escapes ``<``, ``>`` and ``&``. So
texts are written character by character here, and objects by templates that call each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ollama_bridge.template.nodes import Code, Node, Say, Show
from ollama_bridge.template.notation import ToolForm

LIMITS = (
    "a tool's definition has its keys in Ollama's order, without those that Ollama does not know; "
    "properties and arguments come by name; numbers are written as Go writes them, 1.0 as 1",
)
LIMITS_OF_INDENTED = (
    "what stands in more than eight brackets of a tool's property is written without spaces",
)
_NESTED = 8  # levels below a tool's property that are written in lines
_AT_ONCE = 8  # more is faster where nothing is escaped, and slower where much is
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ESCAPES |= {"\b": "\\b", "\f": "\\f"}
_GO_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_GO_ESCAPES |= {"\b": "\\b", "\f": "\\f"}


def string() -> list[Node]:
    """The body of a template that writes the text it is given as JSON.

    Some characters at a time, as far as Go's quoting is JSON's: where it escapes nothing, or what
    Go's ``json`` escapes likewise. Both escape U+2028, so then there have to be as many bytes as
    characters. By single ones a tool's result of 100,000 would take the daemon more than a second
    each time it renders it.
    """
    of_ascii = f"(eq (len $first) {_AT_ONCE}) (gt (len $text) {_AT_ONCE})"
    found: list[Node] = [Code("$text := ."), Say('"'), Code("range len $text")]
    found.append(Code(f'$first := printf "%.{_AT_ONCE}s" $text'))
    found.append(Code('$quoted := printf "%q" $first'))
    found.append(Code('if ne $quoted (printf "\\"%s\\"" $first)'))
    found.append(Code(f"if and {of_ascii} (eq $quoted (json $first))"))
    found.append(Show("slice $quoted 1 (len (slice $quoted 1))"))
    found += [Code(f"$text = slice $text {_AT_ONCE}"), Code("continue"), Code("end")]
    found += [Code('$first = printf "%.1s" $text'), Code("end")]
    found += [Code("if not $first"), Code("break")]
    for character, escape in _ESCAPES.items():
        found += [Code(f'else if eq $first "{_GO_ESCAPES[character]}"'), Say(escape)]
    found += [Code('else if lt $first " "'), Say("\\u00"), Show('printf "%x" $first')]
    found += [Code("else"), Show("$first"), Code("end")]
    return [*found, Code("$text = slice $text (len $first)"), Code("end"), Say('"')]


def printed_string() -> list[Node]:
    """The body of a template that writes a text as Python's ``repr`` does."""
    step = [
        Code('$first := printf "%.1s" $text'),
        Code("if not $first"),
        Code("break"),
        Code("end"),
    ]
    found: list[Node] = [Code("$text := ."), Code('$quote := "\'"'), Code("range len $text"), *step]
    found += [Code('if eq $first "\\""'), Code('$quote = "\'"'), Code("break")]
    found += [Code('else if eq $first "\'"'), Code('$quote = "\\""'), Code("end")]
    found += [Code("$text = slice $text (len $first)"), Code("end")]
    found += [Code("$text = ."), Show("$quote"), Code("range len $text"), *step]
    found += [Code('$quoted := printf "%q" $first')]
    found += [Code("if eq $first $quote"), Say("\\"), Show("$first")]
    for character in ("\\", "\n", "\r", "\t"):
        found += [Code(f'else if eq $first "{_GO_ESCAPES[character]}"'), Say(_ESCAPES[character])]
    found += [Code('else if or (lt $first " ") (eq $first "\\x7f")'), Say("\\x")]
    found += [Show('printf "%x" $first')]
    found += [Code('else if or (eq $first "\\"") (eq $quoted (printf "\\"%s\\"" $first))')]
    found += [Show("$first")]
    found += [Code('else if eq (slice $quoted 0 5) "\\"\\\\u00"'), Say("\\x")]
    found += [
        Show("slice $quoted 5 7"),
        Code("else"),
        Show("slice $quoted 1 (len (slice $quoted 1))"),
    ]
    return [
        *found,
        Code("end"),
        Code("$text = slice $text (len $first)"),
        Code("end"),
        Show("$quote"),
    ]


def value(*, printed: bool = False) -> list[Node]:
    """The body of a template that writes any JSON value."""
    style = _Style(None, printed=printed)
    found: list[Node] = [
        Code('$type := printf "%T" .'),
        Code('if eq $type "string"'),
        style.string("."),
        Code('else if eq $type "map[string]interface {}"'),
        Show(f'template "{style.named("object")}" .'),
        Code('else if eq $type "[]interface {}"'),
        *_list(style, 0, ".", style.value("$item")),
    ]
    if printed:
        found += [Code('else if eq $type "bool"'), Code("if ."), Say("True"), Code("else")]
        found += [Say("False"), Code("end"), Code('else if eq $type "<nil>"'), Say("None")]
    return [*found, Code("else"), Show("json ."), Code("end")]


def object_(*, printed: bool = False) -> list[Node]:
    """The body of a template that writes a mapping; arguments of a call are one."""
    style = _Style(None, printed=printed)
    return _mapping(style, 0, ".", [style.value("$value")])


def tool(form: ToolForm) -> list[Node]:
    """The body of a template that writes a tool."""
    style, whole = _Style(form.indent, form.level, printed=form.printed), form.whole
    if not whole:
        return _function(style, 0, raw=form.raw)
    return [
        Say("{" + style.line(1) + style.key("type")),
        style.string("$.Type"),
        Say(style.comma(1) + style.key("function")),
        *_function(style, 1, raw=form.raw),
        Say(style.line(0) + "}"),
    ]


def value_at(form: ToolForm, level: int) -> list[Node]:
    """The body of a template that writes a value inside an indented tool's property.

    Go's templates take one value and cannot count: each level has a template of its own.
    """
    if level > _level_of(form) + _NESTED:
        return [Show("json .")]
    style, deeper = _Style(form.indent, form.level), f"value-at-{level + 1}"
    return [
        Code('$type := printf "%T" .'),
        Code('if eq $type "string"'),
        style.string("."),
        Code('else if eq $type "map[string]interface {}"'),
        *_mapping(style, level, ".", [Show(f'template "{deeper}" $value')]),
        Code('else if and (eq $type "[]interface {}") .'),
        *_list(style, level, ".", Show(f'template "{deeper}" $item')),
        Code("else"),
        Show("json ."),
        Code("end"),
    ]


def property_(form: ToolForm, level: int | None = None) -> list[Node]:
    """The body of a template that writes a tool's property.

    Args:
        form: How the tool is written.
        level: Where it stands, if that is in another property of an indented tool.
    """
    indent, level = form.indent, _level_of(form) if level is None else level
    style, inner = _Style(indent, form.level, printed=form.printed), level + 1
    within = "property" if indent is None else f"property-at-{level + 2}"
    nested: Mapping[str, list[Node]] = {
        "AnyOf": _list(style, inner, ".AnyOf", Show(f'template "{within}" $item')),
        "Items": [style.value(".Items")],
        "Properties": _mapping(
            style, inner, ".Properties.ToMap", [Show(f'template "{within}" $value')]
        ),
    }
    if indent is not None:
        nested = {**nested, "Items": [Show(f'template "value-at-{inner}" .Items')]}
    if indent is not None and inner >= _level_of(form) + _NESTED:
        nested = {key: [Show(f"json .{key}")] for key in nested}
    types = [
        Code("if eq (len .Type) 1"),
        style.string("(index .Type 0)"),
        Code("else"),
        *_list(style, inner, ".Type", style.string("$item")),
        Code("end"),
    ]
    found: list[Node] = [Say("{"), Code('$comma := ""')]
    for field, key, written in (
        ("AnyOf", "anyOf", nested["AnyOf"]),
        ("Type", "type", types),
        ("Items", "items", nested["Items"]),
        ("Description", "description", [style.string(".Description")]),
        ("Enum", "enum", _list(style, inner, ".Enum", style.value("$item"))),
        ("Properties", "properties", nested["Properties"]),
        ("Required", "required", _list(style, inner, ".Required", style.string("$item"))),
    ):
        # Items may be {}, which is there, though Go's `if` takes it for nothing.
        there = 'ne (printf "%T" .Items) "<nil>"' if field == "Items" else f".{field}"
        found += [Code(f"if {there}"), Show("$comma"), Say(style.line(inner) + style.key(key))]
        found += [*written, Code(f'$comma = "{style.mark}"'), Code("end")]
    return [*found, *_space(style.line(level)), Say("}")]


def _level_of(form: ToolForm) -> int:
    """Of the properties of a tool."""
    return 4 if form.whole else 3


class _Style:
    """Where ``json.dumps`` breaks lines, and what texts look like."""

    def __init__(self, indent: int | None, base: int = 0, *, printed: bool = False) -> None:
        self._indent = indent
        self._base = base
        self._printed = printed
        self.mark = ", " if indent is None else ","

    def line(self, level: int) -> str:
        """What stands behind an opening and before a closing bracket."""
        return "" if self._indent is None else "\n" + " " * (self._indent * (self._base + level))

    def named(self, body: str) -> str:
        """What the template is called that writes something in this style."""
        return f"printed-{body}" if self._printed else body

    def string(self, of: str) -> Node:
        """A text."""
        return Show(f'template "{self.named("string")}" {of}')

    def value(self, of: str) -> Node:
        """Any value."""
        return Show(f'template "{self.named("value")}" {of}')

    def key(self, name: str) -> str:
        """The key of a mapping."""
        return f"'{name}': " if self._printed else f'"{name}": '

    def comma(self, level: int) -> str:
        """What stands between two items."""
        return self.mark + self.line(level)


def _function(style: _Style, level: int, *, raw: bool) -> list[Node]:
    inner, said = level + 1, "$.Function.Description"
    return [
        Say("{" + style.line(inner) + style.key("name")),
        style.string("$.Function.Name"),
        Say(style.comma(inner) + style.key("description")),
        *([Say('"'), Show(said), Say('"')] if raw else [style.string(said)]),
        Say(style.comma(inner) + style.key("parameters")),
        *_parameters(style, inner),
        Say(style.line(level) + "}"),
    ]


def _parameters(style: _Style, level: int) -> list[Node]:
    inner, of = level + 1, "$.Function.Parameters"
    return [
        Say("{" + style.line(inner) + style.key("type")),
        style.string(f"{of}.Type"),
        Say(style.comma(inner) + style.key("properties")),
        *_mapping(style, inner, f"{of}.Properties", [Show('template "property" $value')]),
        Code(f"if {of}.Required"),
        Say(style.comma(inner) + style.key("required")),
        *_list(style, inner, f"{of}.Required", style.string("$item")),
        Code("end"),
        Say(style.line(level) + "}"),
    ]


def _mapping(style: _Style, level: int, of: str, written: Sequence[Node]) -> list[Node]:
    inner = level + 1
    found: list[Node] = [Say("{"), Code('$mark := ""'), Code(f"range $key, $value := {of}")]
    found += [Show("$mark"), *_space(style.line(inner)), style.string("$key"), Say(": "), *written]
    found += [Code(f'$mark = "{style.mark}"'), Code("end")]
    if style.line(level):
        found += [Code("if $mark"), *_space(style.line(level)), Code("end")]
    return [*found, Say("}")]


def _list(style: _Style, level: int, of: str, written: Node) -> list[Node]:
    inner = level + 1
    return [
        Say("["),
        Code(f"range $m, $item := {of}"),
        Code("if $m"),
        Say(style.mark),
        Code("end"),
        *_space(style.line(inner)),
        written,
        Code("end"),
        *_space(style.line(level)),
        Say("]"),
    ]


def _space(text: str) -> list[Node]:
    return [Say(text)] if text else []
