"""A disk that fills up: one clear error, and nothing half-written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.disks import small_disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with 200 kB of room."""
    with small_disk(tmp_path / "small", size_kib=200) as mount:
        yield mount


def assert_no_room(out: Path, *command: str) -> None:
    """A command exits 1, says why and what to do, and leaves no finished folder."""
    done = subprocess.run(
        [sys.executable, "-m", "ollama_bridge", *command, "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "no space left" in done.stderr
    assert "\nfix: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_full_disk_leaves_no_corpus(disk: Path, tmp_path: Path) -> None:
    """``prepare`` onto a full disk."""
    file = tmp_path / "rows.csv"
    rows = "\n".join(
        f"row {n} {'lorem ipsum dolor ' * 10}{n * 31},{'positive' if n % 2 else 'negative'}"
        for n in range(3000)
    )
    file.write_text("text,label\n" + rows)
    assert_no_room(disk / "corpus", "prepare", "sentiment-quick", "--data", str(file))


def test_full_disk_leaves_no_gguf(disk: Path, tiny_checkpoint: Path) -> None:
    """``convert`` onto a full disk."""
    assert_no_room(disk / "gguf", "convert", str(tiny_checkpoint), "--type", "f32")
