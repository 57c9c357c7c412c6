"""Qwen 1.5, 2 and 2.5, and DeepSeek-R1's distills of them."""

from __future__ import annotations

from typing import Any

from ollama_bridge.models.architectures.config import Config, integer, listed, require
from ollama_bridge.models.architectures.frame import Architecture
from ollama_bridge.models.architectures.keys import Keys
from ollama_bridge.models.architectures.layout import Dimensions


class Qwen2(Architecture):
    """``Qwen2ForCausalLM``: biases on query, key and value."""

    hf_class = "Qwen2ForCausalLM"
    model_type = "qwen2"
    name = "qwen2"
    fills_width = True
    biases = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")

    def check(self, config: Config) -> None:
        """Full attention in every layer."""
        super().check(config)
        refuse_windows(config)

    def own_config(self, keys: Keys, dims: Dimensions) -> dict[str, Any]:
        """No sliding window."""
        return {"use_sliding_window": False}


def refuse_windows(config: Config) -> None:
    """Refuse sliding windows, which llama.cpp does not have for Qwen.

    Raises:
        ConversionError: the config has one.
    """
    kinds = listed(config, "layer_types", str)
    full = config.get("max_window_layers")
    if kinds is None and not (
        isinstance(full, int) and full >= integer(config, "num_hidden_layers")
    ):
        require(config, "use_sliding_window", False, default=False)
    for kind in kinds or ():  # what transformers goes by, where it is there
        require({"layer_types": kind}, "layer_types", "full_attention")
