"""What was typed in a chat, kept in a file of the user's alone."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit.history import FileHistory


class KeptHistory(FileHistory):
    """Goes on in memory where its file cannot be written: each line would end in a traceback.

    Attributes:
        trouble: Why nothing is kept from then on; None: it is kept.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.trouble: str | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        except OSError as exc:
            self.trouble = f"{path}: {exc.strerror}"

    def load_history_strings(self) -> Iterable[str]:
        """What was kept before, the newest first."""
        return super().load_history_strings() if self.trouble is None else ()

    def store_string(self, string: str) -> None:
        """Write one down."""
        if self.trouble is None:
            try:
                super().store_string(string)
            except OSError as exc:  # the disk is full, or somebody took it away
                self.trouble = f"{self.filename!s}: {exc.strerror}"
