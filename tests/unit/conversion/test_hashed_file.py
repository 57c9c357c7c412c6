"""A growing file: its digest is that of what is in it, and what fails behind is not lost."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from ollama_bridge.conversion.hashed_file import HashedFile

BEGINNING = b"GGUF" * 3


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that has a beginning."""
    file = tmp_path / "file"
    file.write_bytes(BEGINNING)
    return file


@pytest.mark.parametrize("sizes", [[], [1], [5 << 20, 0, 3, 9 << 20], [1000] * 50])
def test_the_digest_is_that_of_the_whole_file(path: Path, sizes: list[int]) -> None:
    """Whatever the pieces are, beginning included; what they lay in may change at once."""
    random = np.random.default_rng(0)
    whole = BEGINNING
    with HashedFile(path) as file:
        for size in sizes:
            piece = bytearray(random.bytes(size))
            whole += piece
            file.write(memoryview(piece))
            piece[:] = bytes(size)
        digest = file.finish()
        assert file.size_bytes == len(whole)
    assert path.read_bytes() == whole
    assert digest == hashlib.sha256(whole).hexdigest()


def test_what_the_disk_refuses_late_is_raised(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems say only when they write to the disk that there is no room."""

    def refuse(_descriptor: int) -> None:
        raise OSError("late")

    monkeypatch.setattr("ollama_bridge.conversion.hashed_file._to_disk", refuse)
    with HashedFile(path) as file, pytest.raises(OSError, match="late"):
        file.write(b"x")
        file.finish()


def test_a_file_that_is_cut_off_is_an_error(path: Path) -> None:
    """It is not waited for."""
    with HashedFile(path) as file:
        file.write(b"x" * 100)
        path.write_bytes(b"")
        with pytest.raises(OSError, match="cut off"):
            file.finish()
