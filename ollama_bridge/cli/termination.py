"""SIGTERM, which ``docker stop``, systemd and ``timeout`` send, ends a command as Ctrl-C does."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from ollama_bridge.cli.output import INTERRUPTED, TERMINATED


class Termination:
    """How a command that was interrupted ends."""

    def __init__(self) -> None:
        self.exit_code = INTERRUPTED

    @contextlib.contextmanager
    def as_ctrl_c(self) -> Iterator[None]:
        """Inside the block it is a ``KeyboardInterrupt``; a second one ends the process at once.

        Not of the processes of ``torchrun``, each of which may wait for another, deaf, until it is
        killed; nor where who started us has other plans with it.
        """
        of_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
        is_default = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        in_main = threading.current_thread() is threading.main_thread()  # others hear no signals
        if of_torchrun or not is_default or not in_main:
            yield
            return
        signal.signal(signal.SIGTERM, self._interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _interrupt(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.exit_code = TERMINATED
        raise KeyboardInterrupt
