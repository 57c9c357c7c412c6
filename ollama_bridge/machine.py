"""What this process may use of its machine: a container may have less than the system tells."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

# A container's own limits (cgroup version 2), which the system's numbers know nothing of.
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class ContainerMemory:
    """The memory of a container that has a limit.

    Attributes:
        limit_bytes: It may hold no more.
        free_bytes: It may still take so much, what caches give up when asked for included.
    """

    limit_bytes: int
    free_bytes: int


def cores() -> int:
    """How many threads of ours can compute at a time."""
    quota = container_cores(CGROUP)
    return allowed_cores() if quota is None else max(1, min(allowed_cores(), int(quota)))


def allowed_cores() -> int:
    """The cores that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def container_cores(group: Path) -> float | None:
    """For how many cores' time the container may compute; None: it has no limit, or is none."""
    try:
        quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def container_memory(group: Path) -> ContainerMemory | None:
    """The container's memory; None: it has no limit, or is none."""
    try:
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        held = int((group / "memory.current").read_text(encoding="ascii"))
        stat = (group / "memory.stat").read_text(encoding="ascii").split()
        caches = int(stat[stat.index("inactive_file") + 1])
    except (OSError, ValueError):  # "max" is no number
        return None
    return ContainerMemory(limit, max(0, limit - held + caches))
