"""Granite 3 (dense)."""

from __future__ import annotations

from typing import Any

from ollama_bridge.models.architectures.config import Config, real
from ollama_bridge.models.architectures.entries import Entry
from ollama_bridge.models.architectures.entries import real as real_entry
from ollama_bridge.models.architectures.frame import Architecture
from ollama_bridge.models.architectures.keys import Keys
from ollama_bridge.models.architectures.layout import ATTENTION, MLP, Dimensions

_SCALES = {
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}


class Granite(Architecture):
    """``GraniteForCausalLM``: a Llama with four multipliers."""

    hf_class = "GraniteForCausalLM"
    model_type = "granite"
    name = "granite"
    optional_biases = ATTENTION + MLP
    permuted = True
    fills_width = True
    rope_types = (*Architecture.rope_types, "llama3")

    def own_entries(self, config: Config) -> list[Entry]:
        """The multipliers."""
        return [
            real_entry(f"{self.name}.{key}", real(config, name, 1.0))
            for key, name in _SCALES.items()
        ]

    def own_config(self, keys: Keys, dims: Dimensions) -> dict[str, Any]:
        """The multipliers; llama.cpp's defaults where the file is silent."""
        if keys.get("rope.scaling.finetuned") is False:  # of Granite 4: a model without positions
            raise keys.error("rope.scaling.finetuned", False, "True: a granite has positions")
        return {
            "attention_bias": self.has_bias(keys, ATTENTION),
            "mlp_bias": self.has_bias(keys, MLP),
            "attention_multiplier": keys.real("attention.scale", dims.head_dim**-0.5),
            "embedding_multiplier": keys.real("embedding_scale", 1.0),
            "residual_multiplier": keys.real("residual_scale", 1.0),
            "logits_scaling": keys.real("logit_scale"),
        }
