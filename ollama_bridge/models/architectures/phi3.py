"""Phi-3, Phi-3.5 and Phi-4 (text)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ollama_bridge.errors import ConversionError, GGUFError
from ollama_bridge.models.architectures.config import Config, integer, listed, real
from ollama_bridge.models.architectures.entries import Entry, number, shortest
from ollama_bridge.models.architectures.entries import real as real_entry
from ollama_bridge.models.architectures.frame import Architecture
from ollama_bridge.models.architectures.keys import Keys
from ollama_bridge.models.architectures.layout import Axes, Dimensions, Float32Array
from ollama_bridge.models.architectures.mistral import without_window

_LONG, _SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
_ORIGINAL_CONTEXT = 4096  # where the config is silent
_FACTORS = {"long_factor": _LONG, "short_factor": _SHORT}


class Phi3(Architecture):
    """``Phi3ForCausalLM``: query, key and value in one matrix, gate and up in another.

    Long contexts divide the rotary frequencies by two lists of factors (LongRoPE).
    """

    hf_class = "Phi3ForCausalLM"
    model_type = "phi3"
    name = "phi3"
    epsilon = 1e-5
    fills_width = True
    block: ClassVar[Mapping[str, str]] = {
        "input_layernorm": "attn_norm",
        "self_attn.qkv_proj": "attn_qkv",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    rope_types = ("default", "longrope")
    unread = ("phi3.attention.sliding_window",)
    axes: ClassVar[Mapping[str, Axes]] = {
        "self_attn.qkv_proj": Axes(("queries", "keys", "keys"), "hidden"),
        "self_attn.o_proj": Axes(("hidden",), "queries"),
        "mlp.gate_up_proj": Axes(("inner", "inner"), "hidden"),
        "mlp.down_proj": Axes(("hidden",), "inner"),
    }

    def check(self, config: Config) -> None:
        """Plain positions, or LongRoPE with lists of its length."""
        super().check(config)
        parameters = self.rope_of(config)
        if parameters["rope_type"] == "longrope":
            wanted = self._rotated(config) // 2
            for name in _FACTORS:
                if len(listed(parameters, name, float) or ()) != wanted:
                    raise ConversionError(f"config.json: {name} must have {wanted} numbers")

    def rope_of(self, config: Config) -> dict[str, Any]:
        """With the part of a head that is rotated, and LongRoPE under one name."""
        parameters = super().rope_of(config)
        if "partial_rotary_factor" in config:
            parameters.setdefault("partial_rotary_factor", config["partial_rotary_factor"])
        if parameters["rope_type"] in ("su", "yarn"):  # older names of the same
            parameters["rope_type"] = "longrope"
        return parameters

    def notes(self, config: Config) -> list[str]:
        """The sliding window, which llama.cpp leaves out."""
        window = config.get("sliding_window")
        return super().notes(config) + without_window(window, self.dimensions(config).context)

    def unstretched_context(self, config: Config) -> int | None:
        """llama.cpp chooses LongRoPE's factors by num_ctx, transformers by the text's length."""
        if self.rope_of(config)["rope_type"] != "longrope":
            return None
        return self._original_context(config)

    def entries(self, config: Config) -> list[Entry]:
        """The rotated part of a head may be smaller than the head."""
        key = f"{self.name}.rope.dimension_count"
        rotated = number(key, self._rotated(config))
        return [rotated if entry.key == key else entry for entry in super().entries(config)]

    def rope_entries(self, config: Config) -> list[Entry]:
        """Base, the context before it was stretched, and LongRoPE's attention factor."""
        parameters = self.rope_of(config)
        dims = self.dimensions(config)
        original = self._original_context(config)
        prefix = f"{self.name}.rope"
        entries = [
            real_entry(f"{prefix}.freq_base", parameters["rope_theta"]),
            number(f"{prefix}.scaling.original_context_length", original),
        ]
        if parameters["rope_type"] == "longrope":
            stretched = real(parameters, "factor", dims.context / original) * original
            own = attention_factor(stretched, original)
            factor = real(parameters, "attention_factor", own)
            entries.append(real_entry(f"{prefix}.scaling.attn_factor", factor))
        return entries

    def own_entries(self, config: Config) -> list[Entry]:
        """The window's size; 0 tells a Phi-4 from the others."""
        window = config.get("sliding_window")
        key = f"{self.name}.attention.sliding_window"
        return [number(key, window if isinstance(window, int) else 0)]

    def computed(self, config: Config) -> dict[str, Float32Array]:
        """LongRoPE's factors."""
        parameters = self.rope_of(config)
        if parameters["rope_type"] != "longrope":
            return {}
        return {
            target: np.array(parameters[name], dtype=np.float32)
            for name, target in _FACTORS.items()
        }

    def own_config(self, keys: Keys, dims: Dimensions) -> dict[str, Any]:
        """The window, and the context before it was stretched."""
        window = keys.get("attention.sliding_window")
        original = keys.integer("rope.scaling.original_context_length", dims.context)
        return {
            "original_max_position_embeddings": original,
            "sliding_window": window if isinstance(window, int) and window > 0 else None,
        }

    def rope_parameters(self, keys: Keys, dims: Dimensions) -> dict[str, Any]:
        """Plain, or LongRoPE where the file has its factors."""
        contents = keys.contents
        rotated = keys.integer("rope.dimension_count", dims.head_dim)
        parameters: dict[str, Any] = {
            "rope_type": "default",
            "rope_theta": keys.real("rope.freq_base", 10000.0),
            "partial_rotary_factor": rotated / dims.head_dim,
        }
        if _LONG not in contents.tensors:
            return parameters
        original = keys.integer("rope.scaling.original_context_length")
        own = attention_factor(dims.context, original)
        stored = keys.real("rope.scaling.attn_factor", 1.0)
        if not math.isclose(own, stored, rel_tol=1e-5):
            parameters["attention_factor"] = stored
        for name, target in _FACTORS.items():
            values = contents.tensor(target).tolist()
            if len(values) != rotated // 2:
                raise GGUFError(f"{contents.path}: {target} must have {rotated // 2} numbers")
            parameters[name] = [shortest(value) for value in values]
        parameters["rope_type"] = "longrope"
        parameters["original_max_position_embeddings"] = original
        return parameters

    def _rotated(self, config: Config) -> int:
        dims = self.dimensions(config)
        return int(dims.head_dim * real(self.rope_of(config), "partial_rotary_factor", 1.0))

    def _original_context(self, config: Config) -> int:
        own = self.rope_of(config).get("original_max_position_embeddings")
        fallback = own if isinstance(own, int) else _ORIGINAL_CONTEXT
        return integer(config, "original_max_position_embeddings", fallback)

    def _check_rotated(self, keys: Keys, head_dim: int) -> None:
        rotated = keys.integer("rope.dimension_count", head_dim)
        if rotated > head_dim or rotated % 2:
            raise GGUFError(f"{keys.contents.path}: rope.dimension_count {rotated} of {head_dim}")


def attention_factor(context: float, original: int) -> float:
    """What LongRoPE multiplies attention with.

    Args:
        context: Positions after stretching.
        original: Positions before.

    Source: ``_compute_longrope_parameters`` of transformers; llama.cpp's converter has the same.
    """
    scale = context / original
    return math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
