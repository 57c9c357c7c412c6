"""The GGUF without a mind."""

from __future__ import annotations

from pathlib import Path

from ollama_bridge.models.gguf.reader import read_gguf
from ollama_bridge.verify.blank_gguf import write_blank_gguf


def test_it_is_a_small_and_sound_file(tmp_path: Path) -> None:
    """Read strictly; every byte is a token; that a runner loads it, a live test shows."""
    path = tmp_path / "blank.gguf"
    write_blank_gguf(path)
    assert path.stat().st_size < 100_000
    contents = read_gguf(path)
    assert len(contents.tensors) == 11
    assert len(contents.metadata["tokenizer.ggml.tokens"]) == 259
    again = tmp_path / "again.gguf"
    write_blank_gguf(again)
    assert again.read_bytes() == path.read_bytes()
