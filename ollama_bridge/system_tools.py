"""What programs of the system tell: short questions, none of which may hold us up or fail us."""

from __future__ import annotations

import subprocess


def output_of(*command: str, limit_s: float, may_fail: bool = False) -> str | None:
    """What a program prints; None: it is not there, takes too long, or says that it failed.

    Args:
        command: The program and its arguments.
        limit_s: How long it may take.
        may_fail: Whether what it prints counts whatever its exit code is.
    """
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            check=not may_fail,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
