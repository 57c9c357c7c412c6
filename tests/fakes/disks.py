"""A file system that is nearly full from the start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(mount: Path, *, size_kib: int) -> Iterator[Path]:
    """A file system of so much room at ``mount``; skips where that cannot be had."""
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("mounting a small tmpfs needs root on Linux")
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(mount)]
    if subprocess.run(command, check=False).returncode:
        pytest.skip("this system allows no mounts")
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)
