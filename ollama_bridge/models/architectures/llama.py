"""Llama 2 and 3, and what shares their class: SmolLM2, TinyLlama, ..."""

from __future__ import annotations

from typing import Any

from ollama_bridge.errors import UnsupportedArchitectureError
from ollama_bridge.models.architectures.frame import Architecture
from ollama_bridge.models.architectures.keys import Keys
from ollama_bridge.models.architectures.layout import ATTENTION, MLP, Dimensions


class Llama(Architecture):
    """``LlamaForCausalLM``."""

    hf_class = "LlamaForCausalLM"
    model_type = "llama"
    name = "llama"
    optional_biases = ATTENTION + MLP
    permuted = True
    rope_types = (*Architecture.rope_types, "llama3")

    def own_config(self, keys: Keys, dims: Dimensions) -> dict[str, Any]:
        """Biases; experts are another class."""
        if keys.get("expert_count"):
            raise UnsupportedArchitectureError(
                "llama with experts", ("llama",), where=str(keys.contents.path)
            )
        return {
            "attention_bias": self.has_bias(keys, ATTENTION),
            "mlp_bias": self.has_bias(keys, MLP),
        }
