"""How answers are shown: rendered on a terminal, as they come elsewhere, with their times."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
from fakes.terminal import TerminalText
from rich.console import Console

from ollama_bridge.cli import answer_markdown
from ollama_bridge.cli.answer_markdown import Blocks
from ollama_bridge.cli.answers import AnswerView, Shown, tell_cut, timing
from ollama_bridge.client import Reply, Text, Thinking, Timings


def on_terminal(pieces: Sequence[str], thinking: Sequence[str] = ()) -> str:
    """What a terminal shows of an answer."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=60, color_system=None)
    AnswerView(console).show([*map(Thinking, thinking), *map(Text, pieces)])
    return screen.getvalue()


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("a", ""),
        ("\n\na", ""),
        ("a\n\nb", "a\n\n"),
        ("a\n \t\nb\n\n\nc", "a\n \t\nb\n\n"),
        ("a\n\n```\nb\n\nc", "a\n\n"),
        ("```\nb\n\nc\n```\n\nd", "```\nb\n\nc\n```\n\n"),
        ("````md\n```\nb\n```\n\nc\n```` \n\nd", "````md\n```\nb\n```\n\nc\n```` \n\n"),
        ("~~~\n```\n\n~~~\n\nd", "~~~\n```\n\n~~~\n\n"),
        ("```a``` is one\n\nb", "```a``` is one\n\n"),
        ("- ```sh\n  b\n\n  c\n  ```\n\nd", "- ```sh\n  b\n\n  c\n  ```\n\n"),
        ("* 1) ~~~\n\tb\n\n\t~~~\n\nd", "* 1) ~~~\n\tb\n\n\t~~~\n\n"),
        ("10. a\n    ```\n    b\n\n    ```\n\nd", "10. a\n    ```\n    b\n\n    ```\n\n"),
        ("```md\n- b\n    ```\n\nc\n```\n\nd", "```md\n- b\n    ```\n\nc\n```\n\n"),
        ("> ```\n> b\n\nc", "> ```\n> b\n\n"),
    ],
)
@pytest.mark.parametrize("length", [1, 3, 100])
def test_blocks_that_are_whole_are_left_alone(text: str, whole: str, length: int) -> None:
    """A blank line inside a fence ends nothing, in whatever pieces it comes."""
    blocks = Blocks()
    pieces = [text[place : place + length] for place in range(0, len(text), length)]
    assert "".join(map(blocks.add, pieces)) == whole
    assert blocks.growing == text.removeprefix(whole)


@pytest.mark.parametrize("models", [1, 2])
def test_an_answer_is_parsed_as_often_as_it_is_painted(
    models: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few times a second; with every token it took the cores that the daemon needs."""
    parsed: list[int] = []
    parse = answer_markdown._PARSER.parse
    monkeypatch.setattr(
        answer_markdown._PARSER, "parse", lambda text: [parsed.append(len(text)), parse(text)][1]
    )
    pieces = ["```\n", *["a ", "\n", "\n"] * 500]
    console = Console(file=io.StringIO(), force_terminal=True, width=60, color_system=None)
    view = AnswerView(console)
    if models == 1:
        view.show(map(Text, pieces))
    else:
        view.beside({name: map(Text, pieces) for name in "ab"}, "ba")
    assert 0 < len(parsed) < len(pieces) / 4


def test_markdown_is_rendered_on_a_terminal() -> None:
    """Block by block; thinking is shown before it."""
    pieces = ["# Ti", "tle\n\nA **wo", "rd**.\n\n- one\n", "- two\n"]
    screen = on_terminal(pieces, ["Let me see."])
    assert "Let me see." in screen
    assert "**" not in screen
    assert "A word." in screen
    assert " • two" in screen


@pytest.mark.parametrize(
    "answer",
    [
        "<answer>\n42\n</answer>",
        "Use the <head> tag, or std::vector<int>.",
        "<table><tr><td>1</td></tr></table>",
        "[1]: https://example.org/a",
        "See <https://example.org/a> or ![a plot](plot.png)",
        "name: Ada\nborn: 1815",
        "| a | b |\n|---|---|\n| <td> | 2 |",
        "```\n<pre>\n```",
    ],
)
def test_every_word_of_an_answer_is_seen(answer: str) -> None:
    """Of Markdown's marks there may be less; lines end where they end."""
    screen = on_terminal([answer])
    for word in re.findall(r"[\w</>:.]+", answer):
        assert word in screen
    if "born" in answer:
        assert "Ada born" not in screen


def test_where_a_link_goes_is_seen() -> None:
    """A terminal need not show what is behind a word."""
    screen = on_terminal(["See [the page](https://example.org/a)."])
    assert "the page (https://example.org/a)." in screen


@pytest.mark.parametrize("markdown", [True, False])
def test_an_answer_has_no_power_over_a_terminal(
    markdown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its escape sequences are seen; those of thinking, too."""
    screen = TerminalText()
    monkeypatch.setattr("sys.stderr", screen)
    console = Console(file=screen, force_terminal=True, width=60, color_system=None)
    pieces = [Thinking("\x1b[8mhm"), Text("\x1b]52;c;eA=="), Text("\x9b2J.")]
    AnswerView(console, markdown=markdown).show(pieces)
    shown = screen.getvalue()
    assert "\u241b[8mhm" in shown
    assert "\u241b]52;c;eA==\ufffd2J." in shown
    assert not re.search(r"\x1b\[8m|\x1b\]52|\x9b", shown)


def test_times_are_told_in_one_line() -> None:
    """What is not known is left out."""
    reply = Reply("x", "hm", "length", "m", 7, 3, Timings(4.0, 1.0, 0.5, 2.0))
    assert timing(Shown(reply, 1.25, 2.5)) == (
        "7 + 3 tokens, first token 1.25 s, first of the answer 2.50 s, load 1.00 s, "
        "prompt 14.0 tokens/s, answer 1.5 tokens/s, cut"
    )
    known = replace(reply, cached_tokens=6, done_reason="stop")
    assert "prompt 2.0 tokens/s, answer 1.5 tokens/s, 6 of the prompt known" in timing(Shown(known))
    assert timing(Shown()) == "stopped"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"num_predict": 3}, "(cut at num_predict; more: -p num_predict=12)\n"),
        ({}, "(cut at num_ctx; more: -p num_ctx=20)\n"),
    ],
)
def test_what_cut_an_answer_is_told(
    options: dict[str, int], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own limit, or a context that is full; nothing of one that ended."""
    reply = Reply("x", "", "length", "m", 7, 3, Timings(4.0, 1.0, 0.5, 2.0))
    tell_cut(reply, options, "-p {name}={value}")
    tell_cut(replace(reply, done_reason="stop"), options, "-p {name}={value}")
    assert capsys.readouterr().err == told


def test_a_plain_view_writes_as_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is added but the end of the line."""
    screen = io.StringIO()
    AnswerView(Console(file=screen, force_terminal=True), markdown=False).show(
        [Text("# a"), Text("[b]")]
    )
    assert screen.getvalue() == "# a[b]\n"
