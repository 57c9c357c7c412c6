"""Splits ``<think>...</think>`` off an answer as it streams in.

The daemon does this itself for models whose template it understands; this is the fallback for the
others. Only a block at the very beginning counts: a tag in the middle of an answer is text.
"""

from __future__ import annotations

THINKING_OPEN, THINKING_CLOSE = "<think>", "</think>"


class ThinkingSplitter:
    """Feed it the text in any pieces; the result does not depend on where they were cut.

    Args:
        inside: The text begins within the block, as that of a template that opens it.
    """

    def __init__(self, *, inside: bool = False) -> None:
        self._state = "thinking" if inside else "start"
        self._held = ""

    def feed(self, piece: str) -> tuple[str, str]:
        """Take a piece; returns (thinking, text) that are certain by now."""
        self._held += piece
        thinking = text = ""
        if self._state == "start":
            stripped = self._held.lstrip()
            if stripped.startswith(THINKING_OPEN):
                self._state, self._held = "thinking", stripped[len(THINKING_OPEN) :]
            elif not THINKING_OPEN.startswith(stripped):
                self._state = "text"
        if self._state == "thinking":
            thought, closed, rest = self._held.partition(THINKING_CLOSE)
            if closed:
                thinking, self._state, self._held = thought, "gap", rest
            else:
                keep = _overlap(self._held, THINKING_CLOSE)
                thinking = self._held[: len(self._held) - keep]
                self._held = self._held[len(self._held) - keep :]
        if self._state == "gap":
            # The blank lines between thinking and answer belong to neither.
            self._held = self._held.lstrip()
            if self._held:
                self._state = "text"
        if self._state == "text":
            text, self._held = self._held, ""
        return thinking, text

    @property
    def is_settled(self) -> bool:
        """Whether all that follows is text, and nothing is held back."""
        return self._state == "text"

    @property
    def held_text(self) -> str:
        """Text that is not certain to be text yet."""
        return self._held if self._state == "start" else ""

    def finish(self) -> tuple[str, str]:
        """The end of the answer: what was held back."""
        held, self._held = self._held, ""
        if self._state == "thinking":
            return held, ""
        return "", "" if self._state == "gap" else held


def thinking_apart(text: str) -> tuple[str, str]:
    """The thinking and the text of a whole answer of which no more is known.

    A tag that closes what nothing opened: the prompt did, as those of deepseek-r1 do.
    """
    before, closed, _ = text.partition(THINKING_CLOSE)
    splitter = ThinkingSplitter(inside=bool(closed) and THINKING_OPEN not in before)
    parts = (splitter.feed(text), splitter.finish())
    thinking, answer = ("".join(part) for part in zip(*parts, strict=True))
    return thinking.strip(), answer


def opens_thinking(prompt: str) -> bool:
    """Whether an answer to this prompt begins within a thought, as deepseek-r1's do."""
    return prompt.rstrip().endswith(THINKING_OPEN)


def _overlap(text: str, tag: str) -> int:
    """Length of the longest end of ``text`` that may be the beginning of ``tag``."""
    for length in range(min(len(text), len(tag) - 1), 0, -1):
        if tag.startswith(text[-length:]):
            return length
    return 0
