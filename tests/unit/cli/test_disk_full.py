"""A disk that fills up: one clear error, and nothing half-written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system with 200 kB of room."""
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("mounting a small tmpfs needs root on Linux")
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(mount)], check=False
    )
    if done.returncode:
        pytest.skip("this system allows no mounts")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_full_disk_leaves_no_artifact(small_disk: Path, tmp_path: Path) -> None:
    """``prepare`` onto a full disk exits 1, says so, and leaves no finished folder."""
    file = tmp_path / "rows.csv"
    rows = "\n".join(
        f"row {n} {'lorem ipsum dolor ' * 10}{n * 31},{'positive' if n % 2 else 'negative'}"
        for n in range(3000)
    )
    file.write_text("text,label\n" + rows)
    out = small_disk / "corpus"
    done = subprocess.run(
        [sys.executable, "-m", "ollama_bridge", "prepare", "sentiment-quick"]
        + ["--data", str(file), "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "no space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()
