"""The one output sink: bytes for programs, nothing that a terminal would obey for people."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import pytest
from fakes.terminal import TerminalText
from hypothesis import given
from hypothesis import strategies as st

from ollama_bridge.cli import output
from ollama_bridge.errors import DaemonError

# The clipboard, the title, hidden text, all at once by the C1 byte for the same, and a line forged.
HOSTILE = "\x1b]52;c;eA==\x1b\\ \x1b]0;t\x07 \x1b[8mno\x9b2J\rverified"


@given(st.text(st.characters(max_codepoint=0x2FF)))
def test_nothing_is_obeyed_and_nothing_else_is_changed(text: str) -> None:
    """What is printable stays, and so do ends of lines and tabs."""
    shown = output.visible(text)
    assert all(one in "\t\n" or not (one < " " or "\x7f" <= one < "\xa0") for one in shown)
    assert [one for one in shown if one in text] == [
        one for one in text.replace("\r\n", "\n") if one in shown
    ]


@pytest.mark.parametrize(
    "tell",
    [
        lambda: output.data(HOSTILE),
        lambda: output.table([{"NAME": HOSTILE}]),
        lambda: output.fields({"license": HOSTILE}, as_json=False),
        lambda: output.fail(DaemonError(HOSTILE, hint=HOSTILE), as_json=False),
    ],
)
def test_what_others_wrote_has_no_power_over_a_terminal(
    tell: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models, Modelfiles, names and messages of daemons and registries."""
    monkeypatch.setenv("TERM", "dumb")
    screen = TerminalText()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setattr("sys.stderr", screen)
    tell()
    assert "\u241b]52;c;eA==" in screen.getvalue().replace("\n", "")
    assert not {"\x1b", "\x9b", "\x07", "\r"} & set(screen.getvalue())


def test_programs_get_every_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pipe, and as JSON wherever."""
    pipe, screen = io.StringIO(), TerminalText()
    monkeypatch.setattr("sys.stdout", pipe)
    output.data(HOSTILE)
    assert pipe.getvalue() == HOSTILE + "\n"
    monkeypatch.setattr("sys.stdout", screen)
    output.line_json({"text": HOSTILE})
    output.data_json({"text": HOSTILE})
    line, document = screen.getvalue().split("\n", 1)
    assert json.loads(line) == json.loads(document) == {"text": HOSTILE}
