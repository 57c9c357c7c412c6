"""An answer on a terminal while it grows: what is whole is let go, of the rest the end is seen."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.spinner import Spinner
from rich.text import Text as Styled

from ollama_bridge.cli.answer_markdown import AnswerMarkdown, Blocks, GrowingMarkdown
from ollama_bridge.cli.output import visible
from ollama_bridge.client import Text, Thinking
from ollama_bridge.client.session import SessionEvent


class GrowingAnswer:
    """Parts of an answer as they become whole; itself, it is what of it is not.

    Thinking is whole line by line, dimmed.
    """

    def __init__(self, *, show_thinking: bool) -> None:
        self._show_thinking = show_thinking
        self._thought = ""
        self._has_thought = False
        self._blocks = Blocks()
        self._markdown = GrowingMarkdown()

    @property
    def is_empty(self) -> bool:
        """Whether all that came is whole."""
        return not (self._thought or self._blocks.growing)

    def take(self, event: SessionEvent) -> list[RenderableType]:
        """What became whole by an event, in its order."""
        if isinstance(event, Thinking) and self._show_thinking:
            whole = self._end_of_text()
            self._thought += visible(event.text)
            return [*whole, *self._whole_lines()]
        if isinstance(event, Text):
            whole = self._end_of_thought()
            parts = self._blocks.add(visible(event.text))
            return [*whole, *map(AnswerMarkdown, parts)]
        return []

    def end(self) -> list[RenderableType]:
        """The rest, which will not grow any more."""
        return [*self._end_of_thought(), *self._end_of_text()]

    def __rich__(self) -> RenderableType:
        """What is not whole, as it is painted a few times a second by another thread."""
        parts: list[RenderableType] = []
        if thought := self._thought.strip():
            parts.append(_dimmed(thought))
        if (growing := self._blocks.rest()).text:
            parts.append(self._markdown.of(growing))
        return Group(*parts)

    def _whole_lines(self) -> list[RenderableType]:
        lines, newline, _ = self._thought.rpartition("\n")
        # Empty lines wait: they may be the last ones.
        if not newline or not (whole := lines.rstrip()):
            return []
        self._thought = self._thought[len(whole) :].partition("\n")[2]
        return [self._next_of_thought(whole)]

    def _end_of_thought(self) -> list[RenderableType]:
        thought, self._thought = self._thought.rstrip(), ""
        return [self._next_of_thought(thought)] if thought else []

    def _next_of_thought(self, text: str) -> RenderableType:
        is_first, self._has_thought = not self._has_thought, True
        return _dimmed(text.lstrip() if is_first else text)

    def _end_of_text(self) -> list[RenderableType]:
        part = self._blocks.end()
        return [AnswerMarkdown(part)] if part.text.strip() else []


class Tail:
    """The last lines of something, as many as are seen: a terminal cannot repaint what is above."""

    def __init__(self, shown: RenderableType) -> None:
        self._shown = shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render it, and leave out the first lines."""
        lines = console.render_lines(self._shown, options, pad=False)
        yield from _joined(lines[-_seen(options) :])


class Column:
    """One of several answers that are shown beside each other; what is whole is rendered once.

    Attributes:
        is_asked: Its first words are waited for.
        is_tail: As many of its last lines are shown as are seen; else all.
    """

    def __init__(self, *, show_thinking: bool) -> None:
        self.is_asked = False
        self.is_tail = True
        self._answer = GrowingAnswer(show_thinking=show_thinking)
        self._waiting = Spinner("dots")
        self._whole: list[RenderableType] = []
        # A width, how many of them were rendered at it, and their lines.
        self._rendered: tuple[int, int, list[list[Segment]]] = (0, 0, [])

    def take(self, event: SessionEvent) -> None:
        """Take what comes next."""
        self._whole += self._answer.take(event)

    def end(self) -> None:
        """All of it came: from now on all is shown."""
        self._whole += self._answer.end()
        self.is_asked = self.is_tail = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render what is new of it."""
        width, count, lines = self._rendered
        if width != options.max_width:
            count, lines = 0, []
        parts = self._whole[count:]
        new = [line for part in parts for line in console.render_lines(part, options, pad=False)]
        lines = [*lines, *new]
        self._rendered = (options.max_width, count + len(parts), lines)  # at once: two threads
        lines = [*lines, *console.render_lines(self._answer, options, pad=False)]
        if self.is_asked and not lines:
            yield self._waiting
        yield from _joined(lines[-_seen(options) :] if self.is_tail else lines)


def _seen(options: ConsoleOptions) -> int:
    """Lines of a screen, but for a heading and the one in which the cursor stands."""
    return max(1, options.size.height - 3)


def _joined(lines: Sequence[Sequence[Segment]]) -> RenderResult:
    for line in lines:
        yield from line
        yield Segment.line()


def _dimmed(thought: str) -> Styled:
    return Styled(thought, style="dim italic")
