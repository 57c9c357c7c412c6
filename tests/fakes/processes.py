"""What tests ask of processes that may end between two looks at them."""

from __future__ import annotations

import psutil


def has_ended(process: psutil.Process) -> bool:
    """Whether it has ended; one that nobody has waited for yet (a zombie) has."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def words_of(process: psutil.Process) -> str:
    """Its command line; none of one that has ended, nor between exec and the first instruction."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""
