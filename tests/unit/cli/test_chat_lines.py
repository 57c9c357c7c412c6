"""Lines that are a text together, and what of all that is said is no command."""

from __future__ import annotations

import pytest

from ollama_bridge.cli.chat.lines import LineReader

CODE = 'def f(x):\n    """Doc of f."""\n    return x'


def said(*lines: str) -> list[tuple[str, bool]]:
    """What is said in these lines, and whether it is literal."""
    reader = LineReader()
    found = [one for one in map(reader.take, lines) if one is not None]
    found += [one for one in [reader.rest()] if one is not None]
    assert not reader.is_within
    return [(one.text, one.is_literal) for one in found]


@pytest.mark.parametrize(
    ("lines", "texts"),
    [
        (['"""', "a", "", "  b", '"""', "c"], ["a\n\n  b"]),
        (['"""a"""'], ["a"]),
        (['"""a', "b"], ["a\nb"]),
        (['"""a', 'b""" '], ["a\nb"]),
        (['"""a""" b """'], ['a""" b ']),
        (['"""What does """ do in Python?"""'], ['What does """ do in Python?']),
        (['"""/clear', 'is a command of my program."""'], ["/clear\nis a command of my program."]),
        ([f'"""\n{CODE}\n"""'], [CODE]),
        ([f'"""{CODE}', '"""'], [CODE]),
        (['"""', *CODE.split("\n"), '"""'], [CODE]),
        ([CODE], [CODE]),
        ([f'"""Of a file."""\n{CODE}'], [f'"""Of a file."""\n{CODE}']),
        (["/bye\nis a command"], ["/bye\nis a command"]),
    ],
)
def test_what_is_between_marks_or_pasted_is_a_question(lines: list[str], texts: list[str]) -> None:
    """As it is; the end of the input ends a text, too."""
    assert [text for text, is_literal in said(*lines) if is_literal] == texts


@pytest.mark.parametrize(
    "line", ["a", "/bye", "/list\n", 'What does """ do in Python?', 'Say """a', "/load /x/a.json"]
)
def test_other_lines_are_as_they_were_typed(line: str) -> None:
    """A mark in the middle of one begins nothing."""
    assert said(line, "b") == [(line, False), ("b", False)]


@pytest.mark.parametrize("command", ["/system ", "/set system "])
def test_an_instruction_may_have_several_lines(command: str) -> None:
    """Between marks, or as an editor gives them."""
    assert said(f'{command}"""Be', 'brief."""') == [(f"{command}Be\nbrief.", False)]
    assert said(f'{command}"""Be brief."""') == [(f"{command}Be brief.", False)]
    assert said(f"{command}Be\nbrief.") == [(f"{command}Be\nbrief.", False)]


def test_a_text_can_be_dropped() -> None:
    """Nothing of it is left."""
    reader = LineReader()
    assert reader.take('"""a') is None
    assert reader.is_within
    reader.drop()
    assert (reader.is_within, reader.rest()) == (False, None)
