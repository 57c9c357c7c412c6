"""OLMo 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ollama_bridge.models.architectures.config import Config, require
from ollama_bridge.models.architectures.frame import Architecture
from ollama_bridge.models.architectures.keys import Keys
from ollama_bridge.models.architectures.layout import LLAMA_AXES, Axes, Dimensions


class Olmo2(Architecture):
    """``Olmo2ForCausalLM``: norms behind each half of a layer, and over all query and key heads."""

    hf_class = "Olmo2ForCausalLM"
    model_type = "olmo2"
    name = "olmo2"
    epsilon = 1e-5
    fills_width = True
    block: ClassVar[Mapping[str, str]] = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "post_attention_layernorm": "post_attention_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "post_feedforward_layernorm": "post_ffw_norm",
    }
    axes: ClassVar[Mapping[str, Axes]] = {
        **LLAMA_AXES,
        "self_attn.q_norm": Axes(("queries",)),
        "self_attn.k_norm": Axes(("keys",)),
    }

    def check(self, config: Config) -> None:
        """No biases, and an output matrix of its own."""
        super().check(config)
        require(config, "attention_bias", False, default=False)
        require(config, "tie_word_embeddings", False, default=False)

    def own_config(self, keys: Keys, dims: Dimensions) -> dict[str, Any]:
        """No biases; with a window it is an OLMo 3, which llama.cpp calls the same."""
        window = keys.get("attention.sliding_window")
        if window:
            raise keys.error("attention.sliding_window", window, "none: it is an OLMo 3")
        return {"attention_bias": False}
