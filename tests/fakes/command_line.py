"""The command line in this process: every command of it, and one run of it."""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from ollama_bridge import cli
from ollama_bridge.cli.manual import examples


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


def every_command(group: Any = None, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The words of each command that is shown, and the command."""
    for name, command in (group or get_command(cli.app)).commands.items():
        if hasattr(command, "commands"):
            yield from every_command(command, (*words, name))
        elif not command.hidden:
            yield " ".join((*words, name)), command


COMMANDS = dict(every_command())
EXAMPLES = [
    line
    for command in COMMANDS.values()
    for line in "\n".join(examples(command.help or "")).replace("\\\n", "").splitlines()
]


def example(line: str, names: Mapping[str, str] | None = None) -> list[str]:
    """The words of an example, behind ``ollama-bridge``; a test that runs them has it in its text.

    Args:
        line: As the help shows it, up to ``>``.
        names: What stands there in place of words.

    Raises:
        AssertionError: the help does not show it any more.
    """
    assert line in [one.partition(" > ")[0].removeprefix("ollama-bridge ") for one in EXAMPLES]
    return [(names or {}).get(word, word) for word in shlex.split(line)]


def run_in_process(patch: pytest.MonkeyPatch, words: list[str], stdin: str = "") -> Done:
    """Run a command as the installed script does."""
    out, err = io.StringIO(), io.StringIO()
    with patch.context() as inside:
        inside.setattr(sys, "argv", ["ollama-bridge", *words])
        inside.setattr(sys, "stdin", io.StringIO(stdin))
        inside.setattr(sys, "stdout", out)
        inside.setattr(sys, "stderr", err)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def run_line(patch: pytest.MonkeyPatch, line: str) -> Done:
    """Run a line of a shell: one command, with what goes in and out of it by files."""
    words = shlex.split(line)
    stdin = ""
    if "|" in words:  # cat FILE | ollama-bridge ...
        stdin = Path(words[1]).read_text(encoding="utf-8")
        words = words[words.index("|") + 1 :]
    if "<" in words:
        place = words.index("<")
        stdin = Path(words[place + 1]).read_text(encoding="utf-8")
        del words[place : place + 2]
    target = None
    if ">" in words:
        place = words.index(">")
        target = Path(words[place + 1])
        del words[place : place + 2]
    assert words[0] == "ollama-bridge"
    done = run_in_process(patch, words[1:], stdin)
    if target is not None:
        target.write_text(done.stdout, encoding="utf-8")
    return done
