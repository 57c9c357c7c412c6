"""The command line as a person at a terminal has it: Ctrl-C is heard."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from typing import Self

import psutil

CTRL_C = b"\x03"


def start_command(*args: str, **environment: str) -> subprocess.Popen[str]:
    """Start ``ollama-bridge``; both its outputs are pipes.

    A shell starts what it puts into the background with SIGINT ignored, and a program hands that
    on: without this, tests that interrupt would depend on how they were started.

    Args:
        args: Of the command.
        environment: Changes of ours.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "ollama_bridge", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        preexec_fn=_hear_interrupts,
    )


def wait_until_it_sleeps(pid: int, *, limit_s: float = 5) -> None:
    """Wait until a program that is about to wait does wait.

    Python looks for signals between its own instructions: one that comes after it has looked and
    before it waits is seen when it has waited. One look would take a short wait for the long one.

    Args:
        pid: Of the program.
        limit_s: Go on after this long, where the system does not tell who sleeps (macOS).
    """
    watched = psutil.Process(pid)
    deadline_s = time.monotonic() + limit_s
    looks_in_a_row = 0
    while looks_in_a_row < 3 and time.monotonic() < deadline_s:
        sleeps = watched.status() == psutil.STATUS_SLEEPING
        looks_in_a_row = looks_in_a_row + 1 if sleeps else 0
        time.sleep(0.005)


def interrupt(
    *args: str,
    when: Callable[[], bool],
    waits: bool = True,
    by: signal.Signals = signal.SIGINT,
    **environment: str,
) -> None:
    """Ctrl-C for a command in the middle of its work: exit code 130, and a word as the last line.

    Args:
        args: Of the command.
        when: Whether it is there.
        waits: It then waits for what does not come; else it works on, and may soon be done.
        by: SIGTERM in its place: exit code 143.
        environment: Changes of ours.
    """
    process = start_command(*args, **environment)
    while not when():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    if waits:
        wait_until_it_sleeps(process.pid, limit_s=1.0)
    process.send_signal(by)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + by, err
    resumed = {"answers", "batch", "build", "distill", "finetune", "label"}
    goes_on = args[0] in resumed | {"package", "publish", "pull"}
    more = "; the same command goes on from here" if goes_on else ""
    word = "terminated" if by is signal.SIGTERM else "interrupted"
    assert err.endswith(f"{word}{more}\n")
    assert "Traceback" not in err


def run_command(host: str, *args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run ``ollama-bridge`` to its end, with a daemon and what is piped in."""
    return subprocess.run(
        [sys.executable, "-m", "ollama_bridge", *args],
        capture_output=True,
        text=True,
        input=stdin,
        check=False,
        env={**os.environ, "OLLAMA_HOST": host},
        timeout=300,
    )


class Screen:
    """What a pseudo-terminal shows, read as a person does: from where one has read to."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._unread = b""

    def shows(self, text: bytes) -> bool:
        """Wait for a text, a minute at most; bells are not shown."""
        deadline_s = time.monotonic() + 60
        while text not in self._unread and time.monotonic() < deadline_s:
            if select.select([self._terminal], [], [], 0.05)[0]:
                try:
                    self._unread += os.read(self._terminal, 65536).replace(b"\x07", b"")
                except OSError:  # the program ended
                    break
        _, found, self._unread = self._unread.partition(text)
        return bool(found)


class Terminal:
    """``ollama-bridge`` at a pseudo-terminal of 24 lines and 80 columns, while its block lasts.

    Args:
        args: Of the command.
        environment: Changes of ours.
    """

    def __init__(self, *args: str, **environment: str) -> None:
        self._child, self._terminal = pty.fork()
        if self._child == 0:
            # Nobody answers where the cursor is; a prompt would be drawn anew after 2 s.
            os.environ |= {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", **environment}
            _hear_interrupts()
            os.execv(sys.executable, [sys.executable, "-m", "ollama_bridge", *args])
        termios.tcsetwinsize(self._terminal, (24, 80))
        self._screen = Screen(self._terminal)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child:
            os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
        os.close(self._terminal)

    def shows(self, text: bytes, *, after: bytes = b"") -> bool:
        """Type something, and wait for a text."""
        if after == CTRL_C:
            wait_until_it_sleeps(self._child, limit_s=1.0)
        os.write(self._terminal, after)
        return self._screen.shows(text)

    def ends(self) -> int:
        """Wait until the command ends; returns its exit code."""
        child, self._child = self._child, 0
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class TerminalText(io.StringIO):
    """Collects what is written, and says that it is a terminal."""

    def isatty(self) -> bool:
        """As a terminal's stream answers."""
        return True


def lines_left(output: str) -> list[str]:
    """The lines that a terminal of any height has in the end; colours are not looked at.

    Args:
        output: Text with the sequences that rich writes: the cursor goes up, a line is erased.
    """
    lines, row, column = [""], 0, 0
    for found in re.finditer(r"\x1b\[\??([\d;]*)(\w)|([\r\n])|[^\x1b\r\n]+", output):
        count, command, end = found.groups()
        if end:
            row, column = row + (end == "\n"), 0
            lines += [""] * (row + 1 - len(lines))
        elif command == "A":
            row -= int(count or 1)
        elif command == "K":
            lines[row] = ""
        elif command is None:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + found[0] + line[column + len(found[0]) :]
            column += len(found[0])
        else:
            assert command in "mhl", found[0]
    return [line.rstrip() for line in lines]


def _hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
