"""The language model of one that also sees, as transformers saves the two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.models import build_tiny_tokenizer
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageTextToText,
    Gemma3Config,
    Mistral3Config,
    PreTrainedConfig,
    PreTrainedModel,
)

from ollama_bridge.conversion import convert
from ollama_bridge.models.load import load_model
from ollama_bridge.models.resolve import resolve_model

_TEXT: dict[str, Any] = {
    "vocab_size": 384,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
_EYES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def gemma() -> PreTrainedConfig:
    text = {**_TEXT, "num_hidden_layers": 6, "query_pre_attn_scalar": 32, "sliding_window": 32}
    tokens = {"image_token_index": 383, "boi_token_index": 382, "eoi_token_index": 381}
    return Gemma3Config(text_config=text, vision_config=_EYES, mm_tokens_per_image=4, **tokens)


def mistral() -> PreTrainedConfig:
    return Mistral3Config(
        text_config={**_TEXT, "model_type": "mistral"},
        vision_config={**_EYES, "model_type": "pixtral", "head_dim": 8},
        image_token_index=383,
        tie_word_embeddings=False,
    )


def saved(config: PreTrainedConfig, folder: Path) -> PreTrainedModel:
    """A random model of it, saved with the tiny tokenizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForImageTextToText.from_config(config)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    build_tiny_tokenizer().save_pretrained(folder)
    return model.eval()


def name_of_module(name: str) -> str:
    """A saved tensor's name in the model."""
    if name.startswith("language_model.lm_head."):
        return name.removeprefix("language_model.")
    return f"model.{name}".replace(".language_model.model.", ".language_model.")


@pytest.mark.parametrize("config", [gemma, mistral])
@pytest.mark.parametrize("names", ["as saved", "as the modules are called"])
def test_it_computes_what_the_whole_does(config: Any, names: str, tmp_path: Path) -> None:
    """For texts; its GGUF is that of a language model, and what sees is in neither."""
    folder = tmp_path / "whole"
    whole = saved(config(), folder)
    if names != "as saved":
        tensors = load_file(folder / "model.safetensors")
        assert any(name.startswith("language_model.model.") for name in tensors)
        save_file(
            {name_of_module(name): tensor for name, tensor in tensors.items()},
            folder / "model.safetensors",
        )
    checkpoint = resolve_model(str(folder), cache_dir=tmp_path / "cache")
    ids = torch.tensor([[1, 70, 80, 90, 100]])
    with torch.inference_mode():
        expected = whole(input_ids=ids).logits
        found = load_model(checkpoint.path)(input_ids=ids).logits
    assert expected.abs().max() > 0.1
    assert torch.allclose(found, expected, atol=1e-4)
    gguf = convert(checkpoint, type="f16", out_dir=tmp_path / "gguf")
    assert gguf.facts["architecture"] in ("gemma3", "llama")


def test_a_published_text_config_is_completed(tmp_path: Path) -> None:
    """Google's says only what differs from the class, under older names."""
    folder = tmp_path / "whole"
    saved(gemma(), folder)
    document = json.loads((folder / "config.json").read_text())
    text = document["text_config"]
    for name in ("rms_norm_eps", "hidden_activation", "layer_types", "rope_parameters"):
        del text[name]
    text["rope_scaling"] = {"factor": 8.0, "rope_type": "linear"}
    (folder / "config.json").write_text(json.dumps(document))
    checkpoint = resolve_model(str(folder), cache_dir=tmp_path / "cache")
    config = json.loads((checkpoint.path / "config.json").read_text())
    assert config["architectures"] == ["Gemma3ForCausalLM"]
    assert config["rope_parameters"]["full_attention"]["factor"] == 8.0
    convert(checkpoint, type="f16", out_dir=tmp_path / "gguf")
