"""The tags by which Ollama tells thoughts from an answer: it reads them out of the Go template.

Source: ``InferTags`` of Ollama 0.34.4's ``thinking/template.go``: the first and the last text of
the nearest list of nodes around ``.Thinking`` in a range over ``.Messages``; the last such list
counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ollama_bridge.errors import TemplateError
from ollama_bridge.template.go_parse import (
    Assign,
    Call,
    Expression,
    Field,
    If,
    Node,
    Output,
    Range,
    Text,
    Use,
    parse,
)

_FIELD = "Thinking"


def find_thinking_tags(source: str) -> tuple[str, ...]:
    """The opening and the closing tag; none: no thinking is looked for.

    Args:
        source: A Go template of ours.

    Raises:
        TemplateError: it is none.
    """
    opening = closing = ""
    try:
        lists = list(_lists_around_thinking(parse(source), in_messages=False))
    except RecursionError as exc:  # carried values may be anybody's
        raise TemplateError("the Go template is nested too deeply") from exc
    for nodes in lists:
        first, last = nodes[0], nodes[-1]
        if isinstance(first, Text):
            opening = first.text.strip()
        if isinstance(last, Text):
            closing = last.text.strip()
    return (opening, closing) if opening and closing else ()


def _lists_around_thinking(nodes: Sequence[Node], *, in_messages: bool) -> Iterator[Sequence[Node]]:
    for node in nodes:
        if in_messages and any(_names(value, _FIELD) for value in _values(node)):
            yield nodes
        if isinstance(node, If):
            yield from _lists_around_thinking(node.then, in_messages=in_messages)
            yield from _lists_around_thinking(node.otherwise, in_messages=in_messages)
        elif isinstance(node, Range):
            over_messages = _names(node.value, "Messages")
            yield from _lists_around_thinking(node.body, in_messages=over_messages)


def _values(node: Node) -> tuple[Expression, ...]:
    if isinstance(node, If):
        return (node.condition,)
    return (node.value,) if isinstance(node, Assign | Output | Range | Use) else ()


def _names(value: Expression, name: str) -> bool:
    """Whether a field of the dot is in an expression; ``$x.Thinking`` is none to Ollama."""
    if isinstance(value, Call):
        return any(_names(argument, name) for argument in value.arguments)
    return isinstance(value, Field) and value.base is None and value.names[:1] == (name,)
