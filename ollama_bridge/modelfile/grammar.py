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
# What came with Unicode 15, which Go knows and Python 3.11 does not: new emoji, for one.
_OF_UNICODE_15 = re.compile(
    r"[\u0cf3\u0ece\U00010efd-\U00010eff\U0001123f-\U00011241\U00011b00-\U00011b09"
    r"\U00011f00-\U00011f10\U00011f12-\U00011f3a\U00011f3e-\U00011f59\U0001342f"
    r"\U00013440-\U00013455\U0001b132\U0001b155\U0001d2c0-\U0001d2d3\U0001df25-\U0001df2a"
    r"\U0001e030-\U0001e06d\U0001e08f\U0001e4d0-\U0001e4f9\U0001f6dc\U0001f774-\U0001f776"
    r"\U0001f77b-\U0001f77f\U0001f7d9\U0001fa75-\U0001fa77\U0001fa87-\U0001fa88"
    r"\U0001faad-\U0001faaf\U0001fabb-\U0001fabd\U0001fabf\U0001face-\U0001facf"
    r"\U0001fada-\U0001fadb\U0001fae8\U0001faf7-\U0001faf8\U0002b739\U00031350-\U000323af]"
)


@dataclass(frozen=True)
class Command:
    """One instruction.

    Attributes:
        line: Where it begins, from 1.
        name: In lower case, such as ``from``.
        argument: Name of a parameter, or role of a message.
        value: What follows, without quotes.
        dropped: Characters of the value that Ollama silently drops, with their lines.
    """

    line: int
    name: str
    argument: str
    value: str
    dropped: tuple[tuple[int, str], ...] = ()


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
            if not _is_kept(character):
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
            value, position, dropped = _value(text, position, line=line, command=command)
            commands.append(Command(line, command, argument, value, dropped))
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
    return (
        character.isprintable()
        or character in "\t\r\n"
        or _OF_UNICODE_15.match(character) is not None
    )


def _word(text: str, position: int, pattern: str, *, line: int) -> tuple[str, int]:
    match = re.compile(pattern).match(text, position)
    end = match.end() if match else position
    if end >= len(text) or text[end] not in _SPACES:
        raise ModelfileError(f"line {line}: a space and a value must follow the instruction")
    return text[position:end], end + 1


def _value(
    text: str, position: int, *, line: int, command: str
) -> tuple[str, int, tuple[tuple[int, str], ...]]:
    buffer: list[str] = []
    dropped: list[tuple[int, str]] = []
    at = line
    while position < len(text):
        character = text[position]
        position += 1
        if character in _NEWLINES:
            value = _unquote("".join(buffer))
            if value is not None:
                return value, position, tuple(dropped)
            buffer.append(character)
            at += character == "\n"
        elif _is_kept(character):
            buffer.append(character)
        else:
            dropped.append((at, character))
    value = _unquote("".join(buffer))
    if value is None:
        raise ModelfileError(f"line {line}: the value of {command.upper()} has no closing quotes")
    return value, position, tuple(dropped)


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
