'''What the lines of a chat amount to: some are a text together, between """ and """.'''

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

MARK = '"""'
# Of all commands these two take a text that may have several lines.
_TAKES_TEXT = re.compile(r"\s*/(?:set\s+)?system[ \t]+(?=\S)")


@dataclass(frozen=True)
class Said:
    """What a person said at once.

    Attributes:
        text: All of it.
        is_literal: It is a question whatever it looks like: it was put between marks, or pasted.
    """

    text: str
    is_literal: bool = False


class LineReader:
    """Puts lines together, as ``ollama run`` does (``cmd/interactive.go``).

    Only at the beginning of a line a mark begins a text, and only at the end of one it ends it:
    code has the same marks. What is pasted is one line with breaks in it.
    """

    def __init__(self) -> None:
        self._command: str | None = None  # before a text that was begun, or nothing
        self._lines: list[str] = []

    @property
    def is_within(self) -> bool:
        """Whether a text was begun and not ended."""
        return self._command is not None

    def take(self, line: str) -> Said | None:
        """Read the next line; None: its text goes on."""
        end = line.rstrip()
        if self.is_within:
            if not end.endswith(MARK) or end.count(MARK) % 2 == 0:  # """A docstring."""
                self._lines.append(line)
                return None
            self._lines.append(end.removesuffix(MARK))
            return self.rest()
        taking = _TAKES_TEXT.match(line)
        command = taking[0] if taking is not None else ""
        before, mark, text = line.removeprefix(command).partition(MARK)
        is_whole = text.rstrip().endswith(MARK)
        # With an even number it is code that begins with a docstring.
        if mark and not before and (is_whole or line.count(MARK) % 2):
            self._command, self._lines = command, [text.rstrip().removesuffix(MARK)]
            return self.rest() if is_whole else None
        return Said(line, is_literal=not command and "\n" in line.strip())

    def drop(self) -> None:
        """Forget a text that was begun."""
        self._command = None

    def rest(self) -> Said | None:
        """A text that was begun, as if it had ended."""
        if self._command is None:
            return None
        command, self._command = self._command, None
        return Said(command + "\n".join(self._lines).strip("\n"), is_literal=not command)


def words(text: str) -> list[str]:
    """By blanks, but for those between quotation marks: ``stop "User: " END``."""
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split, lexer.quotes, lexer.escape, lexer.commenters = True, '"', "", ""
    try:
        return list(lexer)
    except ValueError:  # a quotation mark that is not closed is one of the text's own
        return text.split()
