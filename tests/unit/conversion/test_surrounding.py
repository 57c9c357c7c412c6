"""What tokenizers of fine-tuned bases put around texts, and conversations go without."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fakes.models import CHAT_TEMPLATE
from tokenizers import Tokenizer, processors

from ollama_bridge.conversion.tokenizer import TokenizerSection
from ollama_bridge.errors import ConversionError
from ollama_bridge.models.load import load_tokenizer
from ollama_bridge.models.reference.texts import TextSide

CONFIG = {"vocab_size": 384, "eos_token_id": 2}


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A base that puts <|endoftext|> before texts; bos is ChatML's own, and EOS is added."""
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(tiny_checkpoint / name, tmp_path)
    path = tmp_path / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<|endoftext|> $A <|im_end|>",
                special_tokens=[("<|endoftext|>", 0), ("<|im_end|>", 2)],
            ),
        ]
    )
    tokenizer.save(str(path))
    return tmp_path


@pytest.mark.parametrize("before", ["", "<|endoftext|>"], ids=["ChatML", "with the base's BOS"])
def test_a_format_that_was_set_up_over_a_base(folder: Path, before: str) -> None:
    """TRL's setup_chat_format names another BOS than the one that the tokenizer goes on adding."""
    (folder / "chat_template.jinja").write_text(before + CHAT_TEMPLATE)
    section = TokenizerSection(folder, CONFIG)
    keys = {entry.key: entry.value for entry in section.entries(chat_template=False)}
    assert keys["tokenizer.ggml.bos_token_id"] == 1
    assert keys["tokenizer.ggml.add_bos_token"] is False
    assert keys["tokenizer.ggml.add_eos_token"] is False
    assert [note.split(":")[0] for note in section.notes] == [
        "Ollama adds no BOS to raw texts",
        "the tokenizer adds EOS to texts and Ollama does not",
    ]
    assert TextSide(load_tokenizer(folder), folder, system=None).adds_bos is False


def test_a_base_without_a_format_is_refused(folder: Path) -> None:
    """It continues texts, which begin with what a GGUF cannot ask for."""
    with pytest.raises(ConversionError, match=r"post-processor adds \[0\] before") as caught:
        TokenizerSection(folder, CONFIG)
    assert "tokenizer.bos_token = " in str(caught.value.hint)


def test_a_base_that_adds_its_own_two_is_written(folder: Path) -> None:
    """Both are in a GGUF, where nothing but texts is encoded."""
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "bos_token": "<|endoftext|>"}))
    section = TokenizerSection(folder, CONFIG)
    keys = {entry.key: entry.value for entry in section.entries(chat_template=False)}
    assert keys["tokenizer.ggml.add_bos_token"] is True
    assert keys["tokenizer.ggml.add_eos_token"] is True
