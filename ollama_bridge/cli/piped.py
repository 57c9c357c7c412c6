"""Text that is piped into a command, in front of what is typed."""

from __future__ import annotations

import os
import select
import stat
import sys
from collections.abc import Callable
from shlex import quote

from ollama_bridge.cli import output
from ollama_bridge.errors import ConfigError, DataError

_STDIN_WAITS_S = (2.0, 20.0)
_NOT_READ = "(nothing was piped in within 22 s, so the prompt is sent alone; to add a file: < FILE)"


def whole_prompt(
    prompt: str, *, command: str, tag: str, meanwhile: Callable[[], None] = lambda: None
) -> str:
    """What is asked: piped text in front of the argument.

    A pipe that nobody writes to is not waited for for ever where there is an argument: a program
    that runs this command may have left its own standard input open.

    ``meanwhile`` is called where what is piped in does not come at once.

    Raises:
        ConfigError: neither.
    """
    piped = ""
    if not sys.stdin.isatty() and (not prompt or _has_input(meanwhile)):
        try:
            piped = checked(sys.stdin.read()).removeprefix("\ufeff")
        except UnicodeError as exc:
            raise not_utf8(command, tag) from exc
    text = "\n".join(part for part in (piped.rstrip("\n") if prompt else piped, prompt) if part)
    if not text.strip():
        raise ConfigError(
            "no prompt: pass it as an argument or on stdin",
            hint=f'ollama-bridge {command} {quote(tag)} "..."',
        )
    return text


def checked(text: str) -> str:
    """Text that was read, as it is.

    Python itself raises nothing in the locale C, where it keeps bytes that are not UTF-8.

    Raises:
        UnicodeError: it has such bytes.
    """
    text.encode()
    return text


def not_utf8(command: str, tag: str) -> DataError:
    """What is raised where piped text cannot be decoded."""
    return DataError(
        "stdin is not UTF-8 text",
        hint=f"iconv -f latin1 -t utf-8 FILE | ollama-bridge {command} {quote(tag)}",
    )


def _has_input(meanwhile: Callable[[], None]) -> bool:
    try:
        kind = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):
        return False
    if stat.S_ISREG(kind):
        return True
    if not (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)):
        return False
    for wait_s in _STDIN_WAITS_S:
        if select.select([sys.stdin], [], [], wait_s)[0]:
            return True
        if wait_s == _STDIN_WAITS_S[-1]:
            output.say(_NOT_READ)
            break
        output.say("(waiting for piped text)")
        meanwhile()
    return False
