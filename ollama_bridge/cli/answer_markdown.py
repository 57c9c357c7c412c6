"""Markdown on a terminal, as models write it: every word of an answer is seen."""

from __future__ import annotations

import re

from markdown_it import MarkdownIt
from rich.markdown import Markdown

# Each block is rendered alone, so that a definition of a link would define nothing; pictures and
# bare addresses would be shown otherwise than they were written.
_NOT_TAKEN = ["reference", "image", "autolink"]
_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
_PARSER.disable(_NOT_TAKEN)
_OPENS = re.compile(r" *(?:(?:[-*+]|\d{1,9}[.)]) +)*(`{3,}(?=[^`]*$)|~{3,})")  # in a list, too
_CLOSES = re.compile(r"( *)(`{3,}|~{3,})")


class AnswerMarkdown(Markdown):
    """Markdown of which nothing is taken for HTML, whose lines end where they end.

    rich leaves out what CommonMark calls HTML: ``<answer>42</answer>``, ``vector<int>``.

    Args:
        text: One or more whole blocks, or one that grows.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text, hyperlinks=False)
        self.parsed = _PARSER.parse(text)
        for block in self.parsed:
            for one in block.children or ():
                if one.type == "softbreak":
                    one.type = "hardbreak"


class GrowingMarkdown:
    """A text that grows while it is shown: parsed when it is painted, not with every token.

    Attributes:
        text: As far as it came.
    """

    def __init__(self, text: str = "") -> None:
        self.text = text
        self._painted: tuple[str, AnswerMarkdown] | None = None

    def __rich__(self) -> AnswerMarkdown:
        """What is painted now; the same as before where nothing came."""
        text = self.text  # read once: another thread paints
        if self._painted is None or self._painted[0] != text:
            self._painted = (text, AnswerMarkdown(text))
        return self._painted[1]


class Blocks:
    """Parts a text that comes in pieces where it will not change any more; reads each line once.

    That is at blank lines outside a fence.

    Attributes:
        growing: What came behind the last of them.
    """

    def __init__(self) -> None:
        self.growing = ""
        self._read = 0  # so far its lines are whole
        self._has_words = False  # are there any in them
        self._fence = ""  # that is open
        self._column = 0  # where it began

    def add(self, piece: str) -> str:
        """What became whole by the next piece; empty: nothing."""
        self.growing += piece
        if "\n" not in piece:
            return ""
        end = 0
        while (newline := self.growing.find("\n", self._read)) >= 0:
            line = self.growing[self._read : newline]
            self._read = newline + 1
            self._look_for_fence(line)
            if line.strip():
                self._has_words = True
            elif self._has_words and not self._fence:
                end, self._has_words = self._read, False
        whole, self.growing = self.growing[:end], self.growing[end:]
        self._read -= end
        return whole

    def _look_for_fence(self, line: str) -> None:
        """A fence is closed by one of its kind that is as long, alone, and no deeper.

        Whether a deep one is in a list is not looked at; if it is not, a block waits longer.
        """
        line = line.expandtabs(4).rstrip()
        if not self._fence:
            if (mark := _OPENS.match(line)) is not None:
                self._fence, self._column = mark[1], mark.start(1)
        elif (mark := _CLOSES.fullmatch(line)) is not None:
            is_as_deep = len(mark[1]) < self._column + 4
            if mark[2].startswith(self._fence) and is_as_deep:
                self._fence = ""
