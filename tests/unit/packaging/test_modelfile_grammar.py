"""The reader of Modelfiles against a literal port of Ollama's state machine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_bridge.errors import ModelfileError
from ollama_bridge.modelfile import Modelfile, dropped_characters
from ollama_bridge.modelfile.grammar import read_commands

_COMMANDS = {
    *("from", "license", "template", "system", "adapter", "draft", "renderer", "parser"),
    *("parameter", "message", "requires"),
}


class RefusedError(Exception):
    """Ollama would refuse the text."""


def port_of_parse_file(text: str) -> list[tuple[str, str, str]]:
    """``ParseFile`` and ``parseRuneForState`` of parser/parser.go (v0.34.4), state by state."""
    commands: list[tuple[str, str, str]] = []
    state, buffer, name, argument = "nil", "", "", ""
    for rune in text:
        next_, rune_ = _next_state(rune, state)
        if next_ != state:
            if state == "name":
                if buffer.lower() not in _COMMANDS:
                    raise RefusedError
                name, argument = buffer.lower(), ""
                next_ = {"parameter": "parameter", "message": "message"}.get(name, next_)
            elif state in ("parameter", "message"):
                argument = buffer
            elif state == "value":
                value = _unquote(buffer.strip(" \t\r\n"))
                if value is None or rune_ in (" ", "\t"):
                    buffer += rune_
                    continue
                commands.append((name, argument, value))
            buffer, state = "", next_
        if rune_.isprintable():
            buffer += rune_
    if state == "value":
        value = _unquote(buffer.strip(" \t\r\n"))
        if value is None:
            raise RefusedError
        commands.append((name, argument, value))
    elif state not in ("comment", "nil"):
        raise RefusedError
    return commands


def _next_state(rune: str, state: str) -> tuple[str, str]:
    space, newline = rune in " \t", rune in "\r\n"
    alpha = rune.isascii() and rune.isalpha()
    if state == "nil":
        if rune == "#":
            return "comment", "\0"
        return ("nil", "\0") if space or newline else ("name", rune)
    if state == "name":
        if alpha:
            return "name", rune
        if space:
            return "value", "\0"
        raise RefusedError
    if state == "value":
        return ("nil", rune) if newline or space else ("value", rune)
    if state in ("parameter", "message"):
        number = state == "parameter" and rune.isascii() and (rune.isdigit() or rune == "_")
        if alpha or number:
            return state, rune
        if space:
            return "value", "\0"
        raise RefusedError
    return ("nil", "\0") if newline else ("comment", "\0")


def _unquote(text: str) -> str | None:
    for quotes in ('"""', '"'):
        if text.startswith(quotes):
            closed = len(text) >= 2 * len(quotes) and text.endswith(quotes)
            return text[len(quotes) : -len(quotes)] if closed else None
    return text


PIECES = [
    "FROM ", "from\t", "SYSTEM ", "TEMPLATE ", "PARAMETER ", "stop ", "num_ctx ", "LICENSE ",
    "MESSAGE ", "user ", '"""', '"', "\n", "\r\n", " ", "\t", "#", "x", "a b", "\u00a0", "é",
    "\u200d", "\x00", "7", "_",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_reads_what_ollama_reads(text: str) -> None:
    """Any text gives the same instructions as Ollama's own state machine, or both refuse."""
    try:
        expected = port_of_parse_file(text)
    except RefusedError:
        with pytest.raises(ModelfileError):
            read_commands(text)
        return
    found = [(command.name, command.argument, command.value) for command in read_commands(text)]
    assert found == expected


def test_reads_a_modelfile_of_people() -> None:
    """Comments, any case, bare and quoted values."""
    modelfile = Modelfile.parse(
        "# mine\nfrom ./m.gguf\nPARAMETER temperature 0.5\nPARAMETER stop a\n"
        'PARAMETER stop "b c"\nSYSTEM """\nBe brief.\n"""\n'
    )
    assert modelfile.system == "\nBe brief.\n"
    assert modelfile.parameters == {"temperature": 0.5, "stop": ("a", "b c")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SYSTEM hi\n", "no FROM"),
        ("FROM a\nFROM b\n", "second FROM"),
        ("FROM a\nADAPTER x\n", "line 2: ADAPTER"),
        ("FROM a\n\nHELLO x\n", "line 3: 'HELLO'"),
        ('FROM a\nSYSTEM """x\n', "line 2: .*closing quotes"),
        ("FROM a\nPARAMETER temprature 1\n", "did you mean temperature"),
        ("FROM a\nPARAMETER temperature hot\n", "line 2: PARAMETER temperature"),
        ("FROM a\nPARAMETER temperature 1_0\n", "must be a number, not '1_0'"),
        ('FROM a\nPARAMETER top_p "0.5 "\n', "must be a number, not '0.5 '"),
        ("FROM a\nPARAMETER num_ctx 1.5\n", "whole number"),
        ("FROM", "must follow"),
    ],
)
def test_refuses_with_the_line(text: str, message: str) -> None:
    """What Ollama refuses, and what this package does not carry, is named with its line."""
    with pytest.raises(ModelfileError, match=message):
        Modelfile.parse(text)


def test_dropped_characters_are_found_with_their_lines() -> None:
    """Characters that Ollama drops are seen before they are lost; comments do not matter."""
    text = "# \u00a0\nFROM a\nSYSTEM b\u200dc\n"
    assert dropped_characters(text) == [(3, "\u200d")]
    assert [command.dropped for command in read_commands(text)] == [(), ((3, "\u200d"),)]


def test_new_emoji_are_kept() -> None:
    """A Python may know fewer characters than Ollama."""
    assert dropped_characters("SYSTEM \U0001fae8 \U0001fa77") == []


def test_what_looks_like_a_comment_in_a_value_loses_characters_too() -> None:
    """Of several lines, each has its own number."""
    (command,) = read_commands('SYSTEM """a\u00a0\n# b\x07\tc\n\ufeff"""')
    assert command.value == "a\n# b\tc\n"
    assert command.dropped == ((1, "\u00a0"), (2, "\x07"), (3, "\ufeff"))
