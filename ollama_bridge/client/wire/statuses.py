"""Reads the status lines of ``create``, ``pull`` and ``push``: success has to be said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ollama_bridge.client.wire.fields import Fields
from ollama_bridge.client.wire.uploads import ProgressCallback
from ollama_bridge.errors import StreamBrokenError


class StatusReader:
    """Takes status lines one by one; :meth:`finish` demands the last one."""

    def __init__(
        self,
        model: str,
        path: str,
        on_status: Callable[[str], None] | None,
        on_progress: ProgressCallback | None,
    ) -> None:
        self._model = model
        self._path = path
        self._on_status = on_status
        self._on_progress = on_progress
        self._last = ""

    def take(self, data: dict[str, Any]) -> None:
        """One line."""
        fields = Fields(data, self._path)
        self._last = fields.text("status")
        if self._on_status is not None:
            self._on_status(self._last)
        if self._on_progress is not None and fields.has("total"):
            self._on_progress(fields.whole("completed"), fields.whole("total"))

    def finish(self) -> None:
        """The stream is over.

        Raises:
            StreamBrokenError: it did not end with success.
        """
        if self._last != "success":
            error = StreamBrokenError(
                f"{self._path} of {self._model!r} ended without success "
                f"(last status: {self._last!r})",
                hint="run it again; if it fails again, see the daemon's log",
                model=self._model,
            )
            error.phase = "between_tokens"
            raise error
