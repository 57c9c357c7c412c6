"""How answers are shown: rendered on a terminal, as they come elsewhere, with their times."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from threading import Thread, current_thread, main_thread
from typing import Any

import pytest
from fakes.terminal import TerminalText, lines_left
from rich.console import Console, Group, RenderResult
from rich.live import Live

from ollama_bridge.cli import answer_markdown, answers
from ollama_bridge.cli.answer_markdown import AnswerMarkdown, Blocks, Part
from ollama_bridge.cli.answers import AnswerView, tell_cut, timing
from ollama_bridge.cli.growing_answer import Column, GrowingAnswer, Tail
from ollama_bridge.client import Pace, Reply, Text, Thinking, Timings
from ollama_bridge.client.session import SessionEvent


def on_terminal(pieces: Sequence[str], thinking: Sequence[str] = ()) -> str:
    """What a terminal shows of an answer."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=60, color_system=None)
    AnswerView(console).show([*map(Thinking, thinking), *map(Text, pieces)])
    return screen.getvalue()


def beside(
    answers: Mapping[str, Iterable[SessionEvent]], *, width: int, show_thinking: bool = True
) -> str:
    """What a terminal shows of several."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width, color_system=None)
    AnswerView(console, show_thinking=show_thinking).beside(answers, answers)
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
    assert "".join(part.text for piece in pieces for part in blocks.add(piece)) == whole
    assert blocks.growing == text.removeprefix(whole)


def test_what_is_long_is_parted() -> None:
    """A fence where its code begins something, a list at a bullet; not one that is in a list."""
    function = ["def f(x):", *["    x += 1"] * 15, ""]
    code = "\n".join(["```py", *function * 3, "```\n"])
    blocks = Blocks()
    first, second = "\n".join(["```py", *function * 2, "```\n"]), blocks.add(code)
    assert second == [Part(first, "nothing", is_cut=True)]
    assert blocks.rest() == Part("\n".join(["```py", *function, "```\n"]), "same")
    assert Blocks().add("```\n" + "  a\n" * 49) == [
        Part("```\n" + "  a\n" * 48 + "```\n", "nothing", is_cut=True)
    ]
    (bullets,) = Blocks().add("- a\n" * 25)
    assert bullets == Part("- a\n" * 24, "nothing", is_cut=True)
    assert Blocks().add("- a\n  ```\n" + "  b\n" * 99) == []
    assert Blocks().add("1. a\n" * 99) == []


LONG = {
    "code": "```py\n" + "def f(x):\n    return 1\n\n\n" * 30 + "```\n",
    "list": "".join(f"- item {number}\n" for number in range(70)),
    "numbers": "".join(f"{number}. item\n" for number in range(1, 70)),
    "lines": "".join(f"line {number}\n" for number in range(70)),
    "words": " ".join(f"word-{number}" for number in range(400)),
    "blocks": "# T\n\nA.\n\n---\n\nB.\n\n- c\n\n> d\n\n| e |\n|---|\n| f |\n\n"
    "```\ng\n\n\nh\n```\n\nend",
}


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("name", LONG)
def test_what_streams_looks_as_if_it_had_come_at_once(name: str, size: int) -> None:
    """All of it, in its order, with the same empty lines."""
    text = LONG[name]
    pieces = [text[place : place + size] for place in range(0, len(text), size)]
    whole = io.StringIO()
    Console(file=whole, force_terminal=True, width=60, color_system=None).print(
        AnswerMarkdown(Part(text))
    )
    assert lines_left(on_terminal(pieces)) == lines_left(whole.getvalue())
    columns = lines_left(beside({"a": map(Text, pieces), "b": []}, width=124))
    assert [line.strip() for line in columns[1:]] == [
        line.strip() for line in lines_left(whole.getvalue())
    ]


def test_what_grows_is_not_painted_while_a_part_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both would clear the lines that were painted before: one of them lines of the answer."""
    views: list[Live] = []
    print_part = AnswerMarkdown.__rich_console__

    class Kept(Live):
        def start(self, *args: Any, **kwargs: Any) -> None:
            views.append(self)
            super().start(*args, **kwargs)

    def paint_meanwhile(part: AnswerMarkdown, *args: Any) -> RenderResult:
        if current_thread() is main_thread():
            painter = Thread(target=views[0].refresh)
            painter.start()
            painter.join(timeout=0.05)
            painters.append(painter)
        yield from print_part(part, *args)

    painters: list[Thread] = []
    monkeypatch.setattr(answers, "Live", Kept)
    monkeypatch.setattr(AnswerMarkdown, "__rich_console__", paint_meanwhile)
    shown = on_terminal(["a", "\n\nb\nc\nd"])
    for painter in painters:
        painter.join()
    assert lines_left(shown) == ["a", "", "b", "c", "d", ""]


@pytest.mark.parametrize("kind", [Text, Thinking])
@pytest.mark.parametrize("name", ["code", "list", "numbers", "lines", "words"])
def test_the_newest_words_are_always_seen(name: str, kind: type[Text | Thinking]) -> None:
    """Of what is longer than the screen; the lines above are not painted again."""
    console = Console(file=io.StringIO(), force_terminal=True, width=60, height=24)
    answer, column = GrowingAnswer(show_thinking=True), Column(show_thinking=True)
    for piece in re.findall(r".{99}|.*\n", LONG[name]):
        above = [Group(*answer.take(kind(piece)))]
        column.take(kind(piece))
        for shown in (Group(*above, Tail(answer)), column):
            lines = console.render_lines(shown, pad=False)
            text = "".join(segment.text for line in lines for segment in line)
            assert "```" in piece or "".join(re.findall(r"\w+", piece)[-1:]) in text
        assert max(len(console.render_lines(one, pad=False)) for one in (Tail(answer), column)) < 22


def test_a_thought_is_shown_line_by_line() -> None:
    """Without the empty lines around it; its lines stay as they were."""
    pieces = [*"\n\nFirst.\n\n  second\nthird\n\n"]
    assert lines_left(on_terminal(["Hi."], pieces)) == [
        "First.",
        "",
        "  second",
        "third",
        "Hi.",
        "",
    ]
    columns = {"a": [*map(Thinking, pieces), Text("Hi.")], "b": [Text("Yes.")]}
    shown = lines_left(beside(columns, width=60))
    assert [line.split()[0] for line in shown if line.strip()] == [
        "a",
        "First.",
        "second",
        "third",
        "Hi.",
    ]
    assert "Yes." in shown[1]
    assert "First" not in beside(columns, width=60, show_thinking=False)


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
    assert timing(replace(reply, pace=Pace(1.25, 2.5, 4.5, 1, 2))) == (
        "7 + 3 tokens, first token 1.25 s, first of the answer 2.50 s, load 1.00 s, "
        "answer 1.5 tokens/s, cut"
    )
    known = replace(reply, cached_tokens=6, done_reason="stop")
    assert "prompt 2.0 tokens/s, answer 1.5 tokens/s, 6 of the prompt cached" in timing(known)
    fresh = replace(reply, cached_tokens=0)
    assert "prompt 14.0 tokens/s, answer 1.5 tokens/s, cut" in timing(fresh)
    assert timing(None) == "stopped"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"num_predict": 3}, "(cut off at num_predict; for longer answers: -p num_predict=12)\n"),
        ({}, "(cut off at num_ctx; for longer answers: -p num_ctx=20)\n"),
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
