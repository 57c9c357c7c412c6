"""The command line as a person at a terminal has it: Ctrl-C is heard."""

from __future__ import annotations

import os
import signal
import subprocess
import sys


def start_command(*args: str, **environment: str) -> subprocess.Popen[str]:
    """Start ``ollama-bridge``; both its outputs are pipes.

    A shell starts what it puts into the background with SIGINT ignored, and a program hands that
    on: without this, tests that interrupt would depend on how they were started.

    Args:
        args: Of the command.
        environment: Changes of ours.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "ollama_bridge", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        preexec_fn=_hear_interrupts,
    )


def _hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
