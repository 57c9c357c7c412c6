"""Counts how often the last piece of an answer came in a row, as Ollama does.

It ends an answer by that count, up to 0.34.0 without a terminal event: who knows the count can tell
this from a stream that broke.
"""

from __future__ import annotations

# Ollama allows 30 repeats; a runner may hold the last pieces back, and then they never come.
_ENDED_AFTER = 27


class Repeats:
    """The pieces of one answer, of which only the last and its repeats are kept."""

    def __init__(self) -> None:
        self._last = ""
        self._count = 0

    @property
    def end_an_answer(self) -> bool:
        """Whether so many came that Ollama ends the answer."""
        return self._count >= _ENDED_AFTER

    def see(self, piece: object) -> None:
        """Take the next piece; blanks around it do not count, and what is no text is no piece."""
        if not isinstance(piece, str) or not piece:
            return
        said = piece.strip()
        self._count = self._count + 1 if said == self._last else 0
        self._last = said
