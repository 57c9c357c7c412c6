"""The one output sink: bytes for programs, nothing that a terminal would obey for people."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.daemon import FakeDaemon
from fakes.terminal import TerminalText
from hypothesis import given
from hypothesis import strategies as st

from ollama_bridge import cli
from ollama_bridge.cli import output, progress
from ollama_bridge.errors import DaemonError
from ollama_bridge.reporting import Progress

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


def test_a_terminal_that_cannot_repaint_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich would paint there once, at the end: until then a command looked as if it hung."""
    screen = TerminalText()
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr(progress, "_LINE_INTERVAL_S", 0.0)
    with FakeDaemon() as daemon:
        looks = ["--count", "2", "--interval", "0.1"]
        cli.app(["monitor", "--host", daemon.host, *looks], standalone_mode=False)
    assert screen.getvalue().count("tokens/s") == 2
    with progress.ConsoleReporter() as reporter:
        for done in (1, 2):
            reporter.emit(Progress("pull", done, 3, "parts"))
        assert "pull: 2/3 parts" in screen.getvalue()


@pytest.mark.parametrize("cell", ["/data/[new]/x.csv", "[null]", "[/INST]", ":smile: [bold]b"])
def test_brackets_in_a_table_are_brackets(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No markup: paths, JSON and templates are full of them."""
    screen = TerminalText()
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr("sys.stdout", screen)
    output.table([{"FACTS": cell}])
    assert cell in screen.getvalue()


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
    assert not {"\x1b", "\x7f", "\x9b"} & set(screen.getvalue())


@pytest.mark.parametrize(
    ("encoding", "told"),
    [
        ("ascii", b"It?s ? ?\n"),
        ("latin-1", b"It?s \xe9 ?\n"),
        ("utf-8", "It’s é ?\n".encode()),
    ],
)
def test_an_answer_that_the_locale_cannot_print(encoding: str, told: bytes) -> None:
    """Is printed as far as it can be; programs get all of it."""
    with FakeDaemon(pieces=["It’s é \ud83d"]) as daemon:
        environment = os.environ | {"OLLAMA_HOST": daemon.host, "PYTHONIOENCODING": encoding}
        command = [sys.executable, "-m", "ollama_bridge", "run", "m", "hi"]
        done = subprocess.run(command, env=environment, capture_output=True, check=True)
        lines = subprocess.run([*command, "--json"], env=environment, stdout=-1, check=True).stdout
    assert done.stdout == told
    assert json.loads(lines.splitlines()[0])["text"] == "It’s é \ud83d"


def test_names_keep_their_bytes(tmp_path: Path) -> None:
    """Also those that are no UTF-8; JSON says them in ASCII."""
    command = [sys.executable, "-m", "ollama_bridge", "recipes", "copy", "sentiment"]
    folder = os.fsencode(tmp_path) + b"/r\xe9sum\xe9"
    Path(os.fsdecode(folder)).mkdir()
    done = subprocess.run([*command, folder], capture_output=True, check=True)
    assert done.stdout.startswith(folder)
    again = subprocess.run([*command, folder, "--json"], capture_output=True, check=False)
    assert "r\udce9sum" in json.loads(again.stdout)["error"]["message"]
