"""Cuts a stream into lines, and reads each as an event. No input or output here."""

from __future__ import annotations

import json
from typing import Any

from ollama_bridge.client.refusals import CHECK_ADDRESS, error_text, failure, rejection
from ollama_bridge.errors import ReplyInvalidError

_MAX_LINE_BYTES = 16 * 1024 * 1024  # far above any event; a page of a proxy has no end of line


class LineSplitter:
    """Cuts bytes into lines, wherever the pieces were cut."""

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._held_bytes = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """Take a piece; gives the lines that are complete by now."""
        *lines, last = piece.split(b"\n")
        if lines and self._held:
            lines[0] = b"".join(self._held) + lines[0]
            self._held, self._held_bytes = [], 0
        if last:
            self._hold(last)
        return [line for line in lines if line and not line.isspace()]

    def finish(self) -> list[bytes]:
        """The last line, if it had no end."""
        line = b"".join(self._held)
        self._held, self._held_bytes = [], 0
        return [line] if line and not line.isspace() else []

    def _hold(self, piece: bytes) -> None:
        self._held.append(piece)
        self._held_bytes += len(piece)
        if self._held_bytes > _MAX_LINE_BYTES:
            raise ReplyInvalidError(
                f"the daemon sent a line of over {_MAX_LINE_BYTES} bytes", hint=CHECK_ADDRESS
            )


def parse_line(line: bytes, *, model: str | None, partial_text: str = "") -> dict[str, Any]:
    """One event of a stream.

    Raises:
        ReplyInvalidError: not a JSON object.
        RunnerCrashedError: the daemon reports an error; also ContextOverflowError.
    """
    try:
        data = json.loads(line.decode())  # given bytes, it would guess their encoding each time
    except (ValueError, RecursionError) as exc:
        raise ReplyInvalidError(
            "the daemon sent something that is not JSON: an HTML page of a proxy?",
            hint=CHECK_ADDRESS,
            model=model,
            partial_text=partial_text,
        ) from exc
    if not isinstance(data, dict):
        raise ReplyInvalidError(
            f"the daemon sent a {type(data).__name__}, not an object",
            hint=CHECK_ADDRESS,
            model=model,
            partial_text=partial_text,
        )
    if "error" in data:
        message = error_text(data)
        status = data.get("status")
        if isinstance(status, int) and 400 <= status < 500:
            raise rejection(status, message, model=model)
        raise failure(message, model=model, partial_text=partial_text)
    return data
