"""Markdown on a terminal, as models write it: every word of an answer is seen."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, HorizontalRule, Markdown, MarkdownElement
from rich.rule import Rule
from rich.segment import Segment
from rich.syntax import Syntax

# Each block is rendered alone, so that a definition of a link would define nothing; pictures and
# bare addresses would be shown otherwise than they were written.
_NOT_TAKEN = ["reference", "image", "autolink"]
_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
_PARSER.disable(_NOT_TAKEN)
_OPENS = re.compile(r" *(?:(?:[-*+]|\d{1,9}[.)]) +)*(`{3,}(?=[^`]*$)|~{3,})")  # in a list, too
_CLOSES = re.compile(r"( *)(`{3,}|~{3,})")


# A block that is longer is parted: at a line that begins something, or else anywhere.
_LONG_LINES, _LONGEST_LINES = 24, 48


@dataclass(frozen=True)
class Part:
    """One or more blocks of an answer, or a piece of one that is long.

    Attributes:
        text: In Markdown that stands alone.
        above: What it is under: nothing, another block, or more of the same.
        is_cut: More of the same is under it.
    """

    text: str
    above: Literal["nothing", "block", "same"] = "nothing"
    is_cut: bool = False


class _Code(CodeBlock):
    """A fence, or a piece of one, whose lines go on above or below without a gap."""

    goes_on_above = goes_on_below = False

    @classmethod
    def create(cls, markdown: Markdown, token: Token) -> CodeBlock:
        """Of the first or the last fence of a part more may be elsewhere."""
        code = super().create(markdown, token)
        if isinstance(code, _Code) and isinstance(markdown, AnswerMarkdown):
            part, parsed = markdown.part, markdown.parsed
            code.goes_on_above = part.above == "same" and token is parsed[0]
            code.goes_on_below = part.is_cut and token is parsed[-1]
        return code

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Highlighted by itself."""
        text = str(self.text)
        code = text.removesuffix("\n") if self.goes_on_below else text.rstrip()
        padding = (int(not self.goes_on_above), 1, int(not self.goes_on_below), 1)
        yield Syntax(code, self.lexer_name, theme=self.theme, word_wrap=True, padding=padding)


class _Rule(HorizontalRule):
    """With an empty line below as any block has one, not with one of its own."""

    new_line = True

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """A line across the screen."""
        yield Rule(style=console.get_style("markdown.hr", default="none"), characters="-")


class AnswerMarkdown(Markdown):
    """Markdown of which nothing is taken for HTML, whose lines end where they end.

    rich leaves out what CommonMark calls HTML: ``<answer>42</answer>``, ``vector<int>``.
    """

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "fence": _Code,
        "hr": _Rule,
    }

    def __init__(self, part: Part) -> None:
        super().__init__(part.text, hyperlinks=False)
        self.part = part
        self.parsed = _PARSER.parse(part.text)
        for block in self.parsed:
            for one in block.children or ():
                if one.type == "softbreak":
                    one.type = "hardbreak"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Under another block behind an empty line, as if all were rendered together."""
        rendered = iter(super().__rich_console__(console, options))
        first = next(rendered, None)
        if first is None:
            return
        if self.part.above == "block":
            yield Segment.line()
        if first != Segment.line():  # rich puts one before lists and tables, whatever is above
            yield first
        yield from rendered


class GrowingMarkdown:
    """A part that grows while it is shown: parsed when it is painted, not with every token."""

    def __init__(self) -> None:
        self._painted: AnswerMarkdown | None = None

    def of(self, part: Part) -> AnswerMarkdown:
        """What is painted now; the same as before where nothing came."""
        painted = self._painted  # read once: two threads paint
        if painted is None or painted.part != part:
            painted = self._painted = AnswerMarkdown(part)
        return painted


class Blocks:
    """Parts a text that comes in pieces where it will not change any more; reads each line once.

    That is at blank lines outside a fence; and of what is long, before a line of code in a fence
    and before a bullet of a list.

    Attributes:
        growing: What came behind the last of them.
    """

    def __init__(self) -> None:
        self.growing = ""
        self._above: Literal["nothing", "block", "same"] = "nothing"
        self._begin()

    def _begin(self) -> None:
        self._read = 0  # so far its lines are whole
        self._lines = 0  # as many
        self._has_words = False  # are there any in them
        self._fence = ""  # that is open
        self._column = 0  # where it began
        self._opening = ""  # its line

    def add(self, piece: str) -> list[Part]:
        """What became whole by the next piece."""
        self.growing += piece
        if "\n" not in piece:
            return []
        whole: list[Part] = []
        end = 0
        while (newline := self.growing.find("\n", self._read)) >= 0:
            line = self.growing[self._read : newline]
            if self._is_long_before(line):
                whole.append(self._cut())
                newline, end = self.growing.find("\n", self._read), 0
            self._read, self._lines = newline + 1, self._lines + 1
            self._look_for_fence(line)
            if line.strip():
                self._has_words = True
            elif self._has_words and not self._fence:
                end, self._has_words, self._lines = self._read, False, 0
        if end:
            whole.append(Part(self.growing[:end], self._above))
            self.growing, self._above = self.growing[end:], "block"
            self._read -= end
        return whole

    def rest(self) -> Part:
        """What grows."""
        return Part(self.growing, self._above)

    def end(self) -> Part:
        """What grew, which is whole now; what comes then is another block."""
        part = self.rest()
        self.growing = ""
        self._above = "block" if part.text.strip() else self._above
        self._begin()
        return part

    def _is_long_before(self, line: str) -> bool:
        if self._lines < _LONG_LINES or not line.strip():
            return False
        if not self._fence:
            return line[:2] in ("- ", "* ", "+ ") and self.growing.startswith(line[:2])
        # A fence that is indented may be in a list, which goes on behind it.
        begins = not line[0].isspace() or self._lines >= _LONGEST_LINES
        return begins and self._column == 0 and not self._closes(line)

    def _cut(self) -> Part:
        """Part what grows before the next line; a fence is closed and opened again."""
        closing = f"{self._fence}\n" if self._fence else ""
        part = Part(self.growing[: self._read] + closing, self._above, is_cut=True)
        self.growing = self._opening + self.growing[self._read :]
        self._read, self._lines, self._above = len(self._opening), 0, "same"
        return part

    def _look_for_fence(self, line: str) -> None:
        """A fence is closed by one of its kind that is as long, alone, and no deeper.

        Whether a deep one is in a list is not looked at; if it is not, a block waits longer.
        """
        if not self._fence:
            if (mark := _OPENS.match(line.expandtabs(4).rstrip())) is not None:
                self._fence, self._column = mark[1], mark.start(1)
                self._opening, self._lines = f"{line}\n", 0
        elif self._closes(line):
            self._fence = self._opening = ""

    def _closes(self, line: str) -> bool:
        mark = _CLOSES.fullmatch(line.expandtabs(4).rstrip())
        return (
            mark is not None and mark[2].startswith(self._fence) and len(mark[1]) < self._column + 4
        )
