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
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")


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
        """A fence is closed by one of its kind that is as long, with nothing behind it."""
        mark = _FENCE.match(line)
        if mark is None:
            return
        if not self._fence:
            self._fence = mark[1]
        elif mark[1].startswith(self._fence) and not line[mark.end() :].strip():
            self._fence = ""
