"""Ollama's Modelfile grammar, read exactly as its ``parser/parser.go`` does (v0.34.4).

It has no escapes, ends a quoted value at the first line that ends in closing quotes, and drops
characters that Go does not print. Losses are repeated here, so that they can be seen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ollama_bridge.errors import ModelfileError

# parser.go: isSpace, isNewline
_SPACES = " \t"
_NEWLINES = "\r\n"
_COMMANDS = (
    "from",
    "license",
    "template",
    "system",
    "adapter",
    "draft",
    "renderer",
    "parser",
    "parameter",
    "message",
    "requires",
)


@dataclass(frozen=True)
class Command:
    """One instruction.

    Attributes:
        line: Where it begins, from 1.
        name: In lower case, such as ``from``.
        argument: Name of a parameter, or role of a message.
        value: What follows, without quotes.
    """

    line: int
    name: str
    argument: str
    value: str


def read_commands(text: str) -> list[Command]:
    """Split a Modelfile into its instructions, as Ollama's ParseFile does.

    Raises:
        ModelfileError: what Ollama would refuse, with the line.
    """
    commands: list[Command] = []
    text = text.removeprefix("\ufeff")
    position, length = 0, len(text)
    while position < length:
        character = text[position]
        if character == "#":
            position = _end_of_line(text, position)
        elif character in _SPACES + _NEWLINES:
            position += 1
        else:
            line = _line_of(text, position)
            if not character.isprintable():
                position += 1  # begins a word, and is dropped from it
            word, position = _word(text, position, r"[A-Za-z]+", line=line)
            command = word.lower()
            if command not in _COMMANDS:
                raise ModelfileError(
                    f"line {line}: {word!r} is not a Modelfile instruction (known: "
                    f"{', '.join(name.upper() for name in _COMMANDS)})"
                )
            argument = ""
            if command == "parameter":
                argument, position = _word(text, position, r"[A-Za-z0-9_]*", line=line)
            elif command == "message":
                argument, position = _word(text, position, r"[A-Za-z]*", line=line)
            value, position = _value(text, position, line=line, command=command)
            commands.append(Command(line, command, argument, value))
    return commands


def dropped_characters(text: str) -> list[tuple[int, str]]:
    """Characters that Ollama would silently drop when it reads ``text``, with their lines."""
    return [
        (number, character)
        for number, line in enumerate(text.split("\n"), start=1)
        if not line.lstrip().startswith("#")
        for character in line
        if not _is_kept(character)
    ]


def value_problems(value: str) -> list[str]:
    """Why a text cannot be carried between triple quotes, in words; empty if it can."""
    dropped = sorted({character for character in value if not _is_kept(character)})
    problems = []
    if dropped:
        codes = ", ".join(f"U+{ord(character):04X}" for character in dropped[:5])
        problems.append(f"Ollama would drop {len(dropped)} kind(s) of character ({codes})")
    for match in re.finditer(r"[\r\n]", value):
        before = value[: match.start()].rstrip(_SPACES + _NEWLINES)
        if before.endswith('"""'):
            line = value.count("\n", 0, match.start()) + 1
            problems.append(f'its line {line} ends with """, which would end the value')
            break
    return problems


def quoted(value: str) -> str:
    """A text between triple quotes."""
    return f'"""{value}"""'


def bare_or_quoted(value: str) -> str:
    """A text as it is where that is read back equal, else between triple quotes."""
    bare = value.strip() == value and not value.startswith('"') and not re.search(r"[\r\n]", value)
    return value if bare else quoted(value)


def _is_kept(character: str) -> bool:
    # Go's strconv.IsPrint and Python's isprintable have the same definition (letters, marks,
    # numbers, punctuation, symbols and the ASCII space); spaces and line ends take another way.
    return character.isprintable() or character in "\t\r\n"


def _word(text: str, position: int, pattern: str, *, line: int) -> tuple[str, int]:
    match = re.compile(pattern).match(text, position)
    end = match.end() if match else position
    if end >= len(text) or text[end] not in _SPACES:
        raise ModelfileError(f"line {line}: a space and a value must follow the instruction")
    return text[position:end], end + 1


def _value(text: str, position: int, *, line: int, command: str) -> tuple[str, int]:
    buffer: list[str] = []
    while position < len(text):
        character = text[position]
        position += 1
        if character in _NEWLINES:
            value = _unquote("".join(buffer))
            if value is not None:
                return value, position
            buffer.append(character)
        elif character in _SPACES or character.isprintable():
            buffer.append(character)
    value = _unquote("".join(buffer))
    if value is None:
        raise ModelfileError(f"line {line}: the value of {command.upper()} has no closing quotes")
    return value, position


def _unquote(buffer: str) -> str | None:
    # Only these can be in the buffer of what Go's TrimSpace trims: the rest was dropped before.
    trimmed = buffer.strip(_SPACES + _NEWLINES)
    if trimmed.startswith('"""'):
        closed = len(trimmed) >= 6 and trimmed.endswith('"""')
        return trimmed[3:-3] if closed else None
    if trimmed.startswith('"'):
        closed = len(trimmed) >= 2 and trimmed.endswith('"')
        return trimmed[1:-1] if closed else None
    return trimmed


def _end_of_line(text: str, position: int) -> int:
    match = re.compile(r"[\r\n]").search(text, position)
    return match.end() if match else len(text)


def _line_of(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
