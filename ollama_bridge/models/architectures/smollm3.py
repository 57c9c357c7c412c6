"""SmolLM3."""

from __future__ import annotations

from typing import Any

from ollama_bridge.errors import ConversionError
from ollama_bridge.models.architectures.config import Config, listed, require
from ollama_bridge.models.architectures.frame import Architecture
from ollama_bridge.models.architectures.keys import Keys
from ollama_bridge.models.architectures.layout import Dimensions

_PERIOD = 4  # in llama.cpp's code; a GGUF cannot say another


class SmolLM3(Architecture):
    """``SmolLM3ForCausalLM``: a Llama whose every fourth layer has no positions."""

    hf_class = "SmolLM3ForCausalLM"
    model_type = "smollm3"
    name = "smollm3"
    permuted = True
    theta = 2_000_000.0
    ties = True

    def check(self, config: Config) -> None:
        """No biases, and positions are left out where llama.cpp leaves them out."""
        super().check(config)
        require(config, "attention_bias", False, default=False)
        require(config, "mlp_bias", False, default=False)
        require(config, "use_sliding_window", False, default=False)
        layers = self.dimensions(config).layers
        rotated = listed(config, "no_rope_layers", int)
        if rotated is None:
            require(config, "no_rope_layer_interval", _PERIOD, default=_PERIOD)
        elif rotated != self._rotated(layers):
            raise ConversionError(
                "config.json: no_rope_layers leaves positions out of other layers than every "
                "fourth, the only way in which Ollama computes a smollm3",
                hint="let a student keep the first layers, or whole groups of four",
            )

    def own_config(self, keys: Keys, dims: Dimensions) -> dict[str, Any]:
        """The fixed pattern."""
        return {
            "attention_bias": False,
            "mlp_bias": False,
            "no_rope_layers": self._rotated(dims.layers),
            "no_rope_layer_interval": _PERIOD,
            "layer_types": ["full_attention"] * dims.layers,
            "use_sliding_window": False,
        }

    @staticmethod
    def _rotated(layers: int) -> list[int]:
        return [int((layer + 1) % _PERIOD != 0) for layer in range(layers)]
