"""The root of all errors."""

from __future__ import annotations

from typing import ClassVar


class OllamaBridgeError(Exception):
    """Root of all errors of this package.

    Args:
        message: What happened, with the values that matter.
        hint: What to do about it: a command or an edit. Shown on a line of its own.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
