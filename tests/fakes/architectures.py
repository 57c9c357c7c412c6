"""A tiny random checkpoint of every architecture that people distil into, through transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from fakes.models import build_tiny_tokenizer, built_once
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GenerationConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

_SIZES: Mapping[str, Any] = {
    "vocab_size": 384,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
# Rows of 256, the block of K-quants, with heads as wide as above.
WIDE: Mapping[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
}
# A generation config of a model that is to be sampled.
SAMPLING: Mapping[str, Any] = {
    "do_sample": True,
    "temperature": 0.7,
    "top_k": 20,
    "top_p": 0.8,
    "min_p": 0.05,
    "repetition_penalty": 1.05,
}
_FACTORS = [1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0]

# Name of the case: class of the config, and what is not as in _SIZES.
CASES: Mapping[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, {"num_hidden_layers": 2, "tie_word_embeddings": True}),
    "llama-biases": (
        LlamaConfig,
        {"num_hidden_layers": 2, "attention_bias": True, "mlp_bias": True},
    ),
    "llama-3.1": (
        LlamaConfig,
        {
            "num_hidden_layers": 2,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        },
    ),
    "mistral": (MistralConfig, {"num_hidden_layers": 2, "head_dim": 32, "sliding_window": None}),
    "qwen2": (Qwen2Config, {"num_hidden_layers": 2, "tie_word_embeddings": True}),
    "qwen2-yarn": (
        Qwen2Config,
        {
            "num_hidden_layers": 2,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1000000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 128,
            },
        },
    ),
    "qwen3": (Qwen3Config, {"num_hidden_layers": 2, "head_dim": 32, "tie_word_embeddings": True}),
    "gemma2": (
        Gemma2Config,
        {
            "num_hidden_layers": 2,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": 32,
        },
    ),
    "gemma3": (
        Gemma3TextConfig,
        {
            "num_hidden_layers": 6,
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 32,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
    ),
    "phi3": (Phi3Config, {"num_hidden_layers": 2, "original_max_position_embeddings": 512}),
    "phi3-long": (
        Phi3Config,
        {
            "num_hidden_layers": 2,
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 512,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0 + index / 16 for index in range(8)],
                "long_factor": _FACTORS,
                "original_max_position_embeddings": 512,
            },
        },
    ),
    "phi4-mini": (
        Phi3Config,
        {
            "num_hidden_layers": 2,
            "original_max_position_embeddings": 512,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.75,
            },
        },
    ),
    "smollm3": (SmolLM3Config, {"num_hidden_layers": 5, "tie_word_embeddings": True}),
    "granite": (
        GraniteConfig,
        {
            "num_hidden_layers": 2,
            "attention_multiplier": 0.125,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "logits_scaling": 4.0,
        },
    ),
    "olmo2": (Olmo2Config, {"num_hidden_layers": 2}),
}


def build_checkpoint(case: str, folder: Path, *, sizes: Mapping[str, Any] | None = None) -> Path:
    """Save a random checkpoint of an architecture and a ChatML tokenizer as a folder.

    Args:
        case: A name of :data:`CASES`.
        folder: Where to; made if missing.
        sizes: Of the config, other than the small ones; such as :data:`WIDE`.

    Returns:
        The folder.
    """

    def build(made: Path) -> None:
        model = _random_model(case, sizes or {})
        model.save_pretrained(made)
        vocab_size = min(model.config.vocab_size, _SIZES["vocab_size"])
        build_tiny_tokenizer(vocab_size=vocab_size).save_pretrained(made)

    return built_once(f"{case} {sizes}", build, folder)


def _random_model(case: str, sizes: Mapping[str, Any]) -> PreTrainedModel:
    config_class, changes = CASES[case]
    config = config_class(**{**_SIZES, **sizes, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):  # constants would hide a lost or swapped norm
                parameter.data.add_(0.1 * torch.randn_like(parameter))
            if name.endswith(".bias"):
                parameter.data.normal_(std=0.1)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2)
    return model
