"""Reads the part of Go's ``text/template`` language that this package writes.

Follows ``text/template/parse`` (Go 1.26): text, comments, trim markers, pipelines without ``|``,
variables, if, range, break, continue, define, template. What is not written here (with, block) is
refused.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field

from ollama_bridge.errors import TemplateError

_TRIMMED = " \t\r\n"  # what {{- and -}} eat
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:\\.|[^"\\\n])*"|`[^`]*`)|(?P<number>-?\d+)
    |(?P<word>\$?[A-Za-z_]\w*|\$)|(?P<chain>(?:\.[A-Za-z_]\w*)+|\.)|(?P<sign>:=|=|\(|\)|,))""",
    re.VERBOSE,
)
_KEYWORDS = {"true": True, "false": False, "nil": None}


@dataclass(frozen=True)
class Literal:
    """A constant."""

    value: object


@dataclass(frozen=True)
class Field:
    """``.A.B``, ``$.A.B``, ``$x.B``; base None: the dot."""

    base: str | None
    names: tuple[str, ...]


@dataclass(frozen=True)
class Call:
    """A function with its arguments."""

    function: str
    arguments: tuple[Expression, ...]


Expression = Literal | Field | Call


@dataclass(frozen=True)
class Text:
    """Written as it is."""

    text: str


@dataclass(frozen=True)
class Output:
    """``{{ pipeline }}``."""

    value: Expression


@dataclass(frozen=True)
class Assign:
    """``{{ $x := pipeline }}`` or ``=``."""

    name: str
    value: Expression
    declares: bool


@dataclass
class If:
    """With its else, which may be another if."""

    condition: Expression
    then: list[Node] = field(default_factory=list)
    otherwise: list[Node] = field(default_factory=list)


@dataclass
class Range:
    """``{{ range $i, $x := pipeline }}``; names are empty where not given."""

    value: Expression
    names: tuple[str, ...]
    body: list[Node] = field(default_factory=list)


@dataclass
class Define:
    """``{{ define "name" }}``."""

    name: str
    body: list[Node] = field(default_factory=list)


@dataclass(frozen=True)
class Use:
    """``{{ template "name" pipeline }}``."""

    name: str
    value: Expression


@dataclass(frozen=True)
class Leave:
    """``break`` or ``continue``."""

    kind: str


Node = Text | Output | Assign | If | Range | Leave | Define | Use


def parse(source: str) -> list[Node]:
    """The nodes of a template.

    Raises:
        TemplateError: with the line, where Go would refuse it or it is not of the subset.
    """
    root: list[Node] = []
    # Where nodes go, and what `end` closes.
    stack: list[tuple[If | Range | Define | None, list[Node]]] = [(None, root)]
    for line, kind, text in _pieces(source):
        if kind == "text":
            stack[-1][1].append(Text(text))
            continue
        tokens = _Tokens(text, line)
        word = tokens.peek_word()
        if word == "if":
            tokens.take()
            node = If(tokens.expression())
            stack[-1][1].append(node)
            stack.append((node, node.then))
        elif word == "else":
            tokens.take()
            opened = stack.pop()[0]
            if not isinstance(opened, If):
                raise tokens.error("else without if")
            if tokens.peek_word() == "if":
                tokens.take()
                inner = If(tokens.expression())
                opened.otherwise.append(inner)
                stack.append((inner, inner.then))
            else:
                stack.append((opened, opened.otherwise))
        elif word == "range":
            tokens.take()
            names = tokens.range_names()
            loop = Range(tokens.expression(), names)
            stack[-1][1].append(loop)
            stack.append((loop, loop.body))
        elif word == "define":
            tokens.take()
            defined = Define(tokens.name())
            stack[-1][1].append(defined)
            stack.append((defined, defined.body))
        elif word == "template":
            tokens.take()
            stack[-1][1].append(Use(tokens.name(), tokens.expression()))
        elif word == "end":
            tokens.take()
            if len(stack) == 1:
                raise tokens.error("end without if or range")
            stack.pop()
        elif word in ("break", "continue"):
            tokens.take()
            stack[-1][1].append(Leave(word))
        else:
            stack[-1][1].append(tokens.action())
        tokens.finish()
    if len(stack) > 1:
        raise TemplateError("the Go template has an if or range without its end")
    return root


def _pieces(source: str) -> list[tuple[int, str, str]]:
    """Texts and actions with their lines, trim markers applied."""
    pieces: list[tuple[int, str, str]] = []
    position, trim_next = 0, False
    while True:
        start = source.find("{{", position)
        text = source[position : start if start >= 0 else len(source)]
        if trim_next:
            text = text.lstrip(_TRIMMED)
        if start < 0:
            if text:
                pieces.append((0, "text", text))
            return pieces
        line = source.count("\n", 0, start) + 1
        inner_start = start + 2
        if source[inner_start : inner_start + 1] == "-" and (
            source[inner_start + 1 : inner_start + 2].isspace()
        ):
            text = text.rstrip(_TRIMMED)
            inner_start += 1
        if text:
            pieces.append((line, "text", text))
        stop = _closing(source, inner_start, line)
        inner = source[inner_start:stop]
        trim_next = len(inner) > 1 and inner.endswith("-") and inner[-2].isspace()
        if trim_next:
            inner = inner[:-1]
        if not inner.strip().startswith("/*"):
            pieces.append((line, "action", inner))
        position = stop + 2


def _closing(source: str, position: int, line: int) -> int:
    """Where the action ends: the next ``}}`` outside of a string."""
    while position < len(source):
        if source.startswith("}}", position):
            return position
        if source[position] in '"`':
            found = _TOKEN.match(source, position)
            if found is None:
                break
            position = found.end()
        else:
            position += 1
    raise TemplateError(f"the Go template, line {line}: an action is not closed")


class _Tokens:
    """The tokens of one action."""

    def __init__(self, text: str, line: int) -> None:
        self._line = line
        self._tokens: list[tuple[str, str]] = []
        position, text = 0, text.rstrip()
        while position < len(text):
            found = _TOKEN.match(text, position)
            if found is None:
                raise self.error(f"cannot read {text[position:]!r}")
            # A chain that stands directly behind a name belongs to it.
            glued = bool(self._tokens) and found.start(found.lastgroup or "") == position
            kind = str(found.lastgroup)
            if kind == "chain" and glued and self._tokens[-1][0] == "word":
                before = self._tokens.pop()[1]
                self._tokens.append(("word", before + found[kind]))
            else:
                self._tokens.append((kind, found[kind]))
            position = found.end()
        self._tokens.reverse()

    def error(self, message: str) -> TemplateError:
        return TemplateError(f"the Go template, line {self._line}: {message}")

    def peek_word(self) -> str:
        return self._tokens[-1][1] if self._tokens and self._tokens[-1][0] == "word" else ""

    def take(self) -> tuple[str, str]:
        if not self._tokens:
            raise self.error("the action ends too early")
        return self._tokens.pop()

    def finish(self) -> None:
        if self._tokens:
            raise self.error(f"unexpected {self._tokens[-1][1]!r}")

    def range_names(self) -> tuple[str, ...]:
        if not any(token[1] == ":=" for token in self._tokens):
            return ()
        names = []
        while True:
            names.append(self.take()[1])
            sign = self.take()[1]
            if sign == ":=":
                return tuple(names)
            if sign != ",":
                raise self.error(f"unexpected {sign!r}")

    def name(self) -> str:
        kind, text = self.take()
        if kind != "string":
            raise self.error(f"{text!r} is not the name of a template")
        return str(ast.literal_eval(text))

    def action(self) -> Node:
        following = self._tokens[-2][1] if len(self._tokens) > 1 else ""
        if following in (":=", "="):
            name = self.take()[1]
            self.take()
            return Assign(name, self.expression(), following == ":=")
        return Output(self.expression())

    def expression(self) -> Expression:
        """A function with arguments, or one operand."""
        word = self.peek_word()
        if word and not word.startswith("$") and word not in _KEYWORDS:
            self.take()
            arguments = []
            while self._tokens and self._tokens[-1][1] != ")":
                arguments.append(self._operand())
            return Call(word, tuple(arguments))
        return self._operand()

    def _operand(self) -> Expression:
        kind, text = self.take()
        if text == "(":
            inner = self.expression()
            if self.take()[1] != ")":
                raise self.error("a parenthesis is not closed")
            return inner
        if kind == "string":
            return Literal(text[1:-1] if text[0] == "`" else ast.literal_eval(text))
        if kind == "number":
            return Literal(int(text))
        if kind == "chain":
            return Field(None, tuple(name for name in text.split(".") if name))
        if kind == "word" and text in _KEYWORDS:
            return Literal(_KEYWORDS[text])
        if kind == "word" and text.startswith("$"):
            base, *names = text.split(".")
            return Field(base, tuple(names))
        if kind == "word":
            return Call(text, ())
        raise self.error(f"unexpected {text!r}")
