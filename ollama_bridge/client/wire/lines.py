"""Puts what came together: whole bodies, lines, and each line as an event. No input or output."""

from __future__ import annotations

import json
from typing import Any

from ollama_bridge.client.wire.refusals import CHECK_ADDRESS, error_text, failure, rejection
from ollama_bridge.errors import ReplyInvalidError, StreamBrokenError

_MAX_LINE_BYTES = 16 * 1024 * 1024  # far above any event; a page of a proxy has no end of line
_MAX_BODY_BYTES = 512 * 1024 * 1024  # far above any reply, thousands of vectors included


class Body:
    """A whole reply, which does not fill the memory.

    Args:
        most_bytes: There may be.
    """

    def __init__(self, most_bytes: int = _MAX_BODY_BYTES) -> None:
        self._most_bytes = most_bytes
        self._pieces: list[bytes] = []
        self._bytes = 0

    def add(self, piece: bytes) -> None:
        """Take a piece.

        Raises:
            ReplyInvalidError: it is too much.
        """
        self._pieces.append(piece)
        self._bytes += len(piece)
        if self._bytes > self._most_bytes:
            raise ReplyInvalidError(
                f"the daemon sent a reply of over {self._most_bytes} bytes", hint=CHECK_ADDRESS
            )

    def whole(self) -> bytes:
        """All of it."""
        return b"".join(self._pieces)


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


def check_ended(lines: list[bytes]) -> list[bytes]:
    """Let what :meth:`LineSplitter.finish` gives pass if it is no half of an event.

    Raises:
        StreamBrokenError: it is: proxies end broken streams as whole ones.
    """
    for line in lines:
        if line.lstrip().startswith(b"{") and not _is_json(line):
            raise StreamBrokenError(
                "the answer ended in the middle of a line",
                hint="ask again; if it fails again: ollama-bridge doctor",
            )
    return lines


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def parse_line(line: bytes, *, model: str | None) -> dict[str, Any]:
    """One event of a stream; what had come before an error is told by who keeps it.

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
        ) from exc
    if not isinstance(data, dict):
        raise ReplyInvalidError(
            f"the daemon sent a {type(data).__name__}, not an object",
            hint=CHECK_ADDRESS,
            model=model,
        )
    if data.get("error") is not None:
        message = error_text(data)
        status = data.get("status")
        if isinstance(status, int) and 400 <= status < 500:
            raise rejection(status, message, model=model)
        raise failure(message, model=model)
    return data
