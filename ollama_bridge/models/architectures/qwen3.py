"""Qwen3 (dense)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ollama_bridge.models.architectures.config import Config, require
from ollama_bridge.models.architectures.frame import Architecture
from ollama_bridge.models.architectures.keys import Keys
from ollama_bridge.models.architectures.layout import (
    HEAD_NORM,
    LLAMA_AXES,
    LLAMA_BLOCK,
    Axes,
    Dimensions,
)
from ollama_bridge.models.architectures.qwen2 import refuse_windows


class Qwen3(Architecture):
    """``Qwen3ForCausalLM``: norms on every query and key head, no biases."""

    hf_class = "Qwen3ForCausalLM"
    model_type = "qwen3"
    name = "qwen3"
    default_head_dim = 128
    block: ClassVar[Mapping[str, str]] = {
        **LLAMA_BLOCK,
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
    }
    axes: ClassVar[Mapping[str, Axes]] = {
        **LLAMA_AXES,
        "self_attn.q_norm": HEAD_NORM,
        "self_attn.k_norm": HEAD_NORM,
    }

    def check(self, config: Config) -> None:
        """No biases and no sliding window."""
        super().check(config)
        require(config, "attention_bias", False, default=False)
        refuse_windows(config)

    def own_config(self, keys: Keys, dims: Dimensions) -> dict[str, Any]:
        """No sliding window, no biases."""
        return {"use_sliding_window": False, "attention_bias": False}
