"""The GGUF without a mind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ollama_bridge.models.gguf.reader import read_gguf
from ollama_bridge.verify.blank_gguf import Blank


def test_it_is_a_small_and_sound_file(tmp_path: Path) -> None:
    """Read strictly; every byte is a token; that a runner loads it, a live test shows."""
    path = tmp_path / "blank.gguf"
    Blank().write(path)
    assert path.stat().st_size < 100_000
    contents = read_gguf(path)
    assert len(contents.tensors) == 11
    assert len(contents.metadata["tokenizer.ggml.tokens"]) == 259
    assert "tokenizer.chat_template" not in contents.metadata
    again = tmp_path / "again.gguf"
    Blank().write(again)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("says", "behind"),
    [
        ("no no no no no no no", "Assistant: "),
        ('<tool_call>\n{"name": "a"}\n</tool_call>', "<s>Hi</s>"),
        ("Größe 你", "»"),
        ("a", "<s>"),
    ],
)
def test_it_says_one_text(says: str, behind: str, tmp_path: Path) -> None:
    """From the prompt's last byte on, each token is followed by the next, and the end."""
    path = tmp_path / "blank.gguf"
    Blank(chat_template="x", says=says, behind=behind).write(path)
    contents = read_gguf(path)
    tokens = contents.metadata["tokenizer.ggml.tokens"]
    assert len(set(tokens)) == len(tokens)
    embedding, output = (contents.tensor(f"{name}.weight") for name in ("token_embd", "output"))
    byte = behind.replace(" ", "\u2581").encode()[-1]
    token = 2 if behind.endswith("</s>") else 1 if behind.endswith("<s>") else 3 + byte
    found = ""
    while (token := int(np.argmax(output @ embedding[token]))) != 2:
        found += tokens[token].replace("\u2581", " ")
    assert found == says
