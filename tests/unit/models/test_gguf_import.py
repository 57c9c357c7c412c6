"""GGUF -> checkpoint: the inverse of the converter, and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.ggufs import rewrite
from fakes.models import build_tiny_checkpoint
from tokenizers import Tokenizer

from ollama_bridge.conversion import convert
from ollama_bridge.errors import GGUFError, UnsupportedArchitectureError
from ollama_bridge.models.architectures.layout import unpermute
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.models.sources.gguf_import import import_gguf
from ollama_bridge.models.sources.resolve import resolve_model

TEXTS = (
    "The food was great 1234567 times.",
    "  spaces \t tabs\n\nlines\r\n",
    "Größe café naïve Привет こんにちは 你好 안녕 مرحبا",
    "😀👍🏽 👩‍👩‍👧 🇩🇪",
    "I'm you're IT'S don’t ¾ Ⅻ ٣٤",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "",
)


def to_gguf(folder: Path, out: Path) -> Path:
    """Convert a folder with our own converter."""
    checkpoint = resolve_model(str(folder), cache_dir=out / "cache")
    return convert(checkpoint, type="f32", out_dir=out / "gguf", chat_template=True).gguf_path


@pytest.fixture(scope="module")
def gguf(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint as F32 GGUF with its chat template."""
    return to_gguf(tiny_checkpoint, tmp_path_factory.mktemp("gguf"))


def test_the_import_gives_back_the_weights(
    gguf: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Checkpoint -> F32 GGUF -> checkpoint changes no bit of any weight."""
    import_gguf(gguf, tmp_path)
    before, after = load_model(tiny_checkpoint).state_dict(), load_model(tmp_path).state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_part_of_a_model_is_named(gguf: Path, tmp_path: Path) -> None:
    """Files of 50 GB are published in parts; what is missing in one is in another."""
    path = rewrite(gguf, tmp_path / "part", metadata=lambda keys: keys.update({"split.count": 3}))
    with pytest.raises(GGUFError, match="is one of 3 parts of a model") as caught:
        import_gguf(path, tmp_path / "checkpoint")
    assert "--merge" in str(caught.value.hint)


def test_the_import_gives_back_the_tokenizer(
    gguf: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Text of many kinds has the same ids, and conversations render the same."""
    import_gguf(gguf, tmp_path)
    before, after = load_tokenizer(tiny_checkpoint), load_tokenizer(tmp_path)
    for text in TEXTS:
        assert after(text)["input_ids"] == before(text)["input_ids"]
        assert after.decode(after(text)["input_ids"]) == text
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    for turns in (messages[:1], messages):
        assert after.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True
        ) == before.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert after.eos_token_id == before.eos_token_id
    assert after.pad_token_id == before.pad_token_id


def test_the_import_gives_back_the_config(
    gguf: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Every number of the config that decides the computation comes back."""
    import_gguf(gguf, tmp_path)
    before = json.loads((tiny_checkpoint / "config.json").read_text())
    after = json.loads((tmp_path / "config.json").read_text())
    for key in ("rms_norm_eps", "rope_parameters", "head_dim", "tie_word_embeddings",
                "max_position_embeddings", "num_key_value_heads", "eos_token_id"):  # fmt: skip
        assert after[key] == before[key], key
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == 2


@pytest.mark.parametrize(
    ("variant", "arguments"),
    [
        ("untied", {"tied": False}),
        ("wide heads", {"head_dim": 32}),
        ("all heads", {"kv_heads": 4}),
        ("linear", {"rope_parameters": {"rope_type": "linear", "rope_theta": 5e5, "factor": 4.0}}),
        (
            "llama3",
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 500000.0,
                    "factor": 32.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                }
            },
        ),
        (
            "yarn",
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "rope_theta": 10000.0,
                    "factor": 4.0,
                    "original_max_position_embeddings": 128,
                }
            },
        ),
    ],
)
def test_variants_compute_the_same_after_the_round_trip(
    tmp_path: Path, variant: str, arguments: dict[str, Any]
) -> None:
    """Untied outputs, other heads and every RoPE scaling survive the round trip exactly."""
    source = build_tiny_checkpoint(tmp_path / "source", **arguments)
    import_gguf(to_gguf(source, tmp_path), tmp_path / "back")
    tokens = torch.arange(3, 40)[None]
    with torch.no_grad():
        before = load_model(source)(tokens).logits
        after = load_model(tmp_path / "back")(tokens).logits
    assert torch.equal(before, after), variant


def test_unpermute_is_the_inverse_of_llama_cpps_permute() -> None:
    """llama.cpp's permutation, written down as its converter has it, is undone."""
    heads, head_dim = 3, 8
    weights = np.arange(heads * head_dim * 2, dtype=np.float32).reshape(-1, 2)
    permuted = weights.reshape(heads, 2, head_dim // 2, 2).swapaxes(1, 2).reshape(weights.shape)
    assert not np.array_equal(permuted, weights)
    assert np.array_equal(unpermute(permuted, heads), weights)


def test_another_architecture_is_named(gguf: Path, tmp_path: Path) -> None:
    """A GGUF of another architecture is refused by its name."""
    path = rewrite(
        gguf, tmp_path / "x.gguf", metadata=lambda k: k.update({"general.architecture": "mamba"})
    )
    with pytest.raises(UnsupportedArchitectureError, match="mamba"):
        import_gguf(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("llama.block_count", None, "block_count"),
        ("llama.block_count", 1, "does not have"),
        ("llama.block_count", 3, "missing"),
        ("llama.block_count", 2**31, "block_count"),
        ("llama.attention.head_count", 0, "head_count"),
        ("llama.attention.head_count", 8, "shape"),
        ("llama.attention.head_count_kv", 3, "heads"),
        ("llama.embedding_length", 32, "shape"),
        ("llama.rope.dimension_count", 8, "dimension_count"),
        ("llama.attention.layer_norm_rms_epsilon", None, "epsilon"),
        ("llama.context_length", None, "context_length"),
        ("tokenizer.ggml.model", "bert", "bert"),
        ("tokenizer.ggml.pre", "poro-chat", "poro-chat"),
        ("tokenizer.ggml.pre", "noise " * 500, "pre is 'noise"),
        ("tokenizer.ggml.tokens", None, "tokens"),
        ("tokenizer.ggml.tokens", ["a", "b"], "token_type"),
        ("tokenizer.ggml.merges", ["ab"], "two parts"),
        ("tokenizer.ggml.merges", ["nowhere tobefound"], "contradicts"),
        ("tokenizer.ggml.eos_token_id", 99999, "eos_token_id"),
    ],
)
def test_contradictions_are_named(
    gguf: Path, tmp_path: Path, key: str, value: Any, message: str
) -> None:
    """Metadata that are missing, impossible or do not fit the tensors are a GGUFError."""
    path = rewrite(gguf, tmp_path / "x.gguf", metadata=lambda keys: keys.update({key: value}))
    with pytest.raises(GGUFError, match=message) as caught:
        import_gguf(path, tmp_path / "out")
    assert caught.value.hint is not None
    assert len(str(caught.value)) < 1000


def test_bos_is_added_where_the_file_says_so(gguf: Path, tmp_path: Path) -> None:
    """add_bos_token true puts BOS in front, and false does not."""

    def change(keys: dict[str, Any]) -> None:
        keys["tokenizer.ggml.add_bos_token"] = True

    import_gguf(rewrite(gguf, tmp_path / "x.gguf", metadata=change), tmp_path / "out")
    tokenizer = load_tokenizer(tmp_path / "out")
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    assert tokenizer("a")["input_ids"] == [tokenizer.bos_token_id, *bare]


@pytest.mark.parametrize("pre", ["smollm", "gpt-2", "llama-bpe", "qwen2", "default", "starcoder"])
def test_every_known_splitting_reads_and_keeps_the_text(
    gguf: Path, tmp_path: Path, pre: str
) -> None:
    """With each pre-tokenizer, decoding what was encoded gives the text back."""

    def change(keys: dict[str, Any]) -> None:
        keys["tokenizer.ggml.pre"] = pre

    import_gguf(rewrite(gguf, tmp_path / "x.gguf", metadata=change), tmp_path / "out")
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
