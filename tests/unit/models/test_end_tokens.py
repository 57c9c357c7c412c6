"""Which tokens end what a model writes."""

from __future__ import annotations

import shutil
from pathlib import Path

from fakes.endings import set_ends

from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.models.settings.end_tokens import end_ids


def test_a_turns_end_is_one_though_no_config_says_so(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A base model that was taught ChatML ends its turns, not only its texts."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "base")
    set_ends(folder, eos="<|endoftext|>", generation=0)
    tokenizer = load_tokenizer(folder)
    assert end_ids(load_model(folder), tokenizer) == {0, 2}
    tokenizer.chat_template = None
    assert end_ids(load_model(folder), tokenizer) == {0}
