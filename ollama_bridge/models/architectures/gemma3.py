"""Gemma 3 (text)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ollama_bridge.models.architectures import rope
from ollama_bridge.models.architectures.config import Config, mapping, require
from ollama_bridge.models.architectures.entries import Entry
from ollama_bridge.models.architectures.entries import real as real_entry
from ollama_bridge.models.architectures.gemma2 import FULL, SLIDING, Gemma
from ollama_bridge.models.architectures.keys import Keys
from ollama_bridge.models.architectures.layout import HEAD_NORM, LLAMA_AXES, Axes, Dimensions

_GLOBAL_THETA, _LOCAL_THETA = 1_000_000.0, 10_000.0
# What tells a file of Ollama's own converters, of which several are published, from llama.cpp's.
_OLLAMAS_KEYS = ("rope.global.freq_base", "rope.local.freq_base", "mm.tokens_per_image")
_STRETCHED_CONTEXT, _STRETCHED_FACTOR = 131072, 8.0
_UNCAPPED_LAYERS = 26


class Gemma3(Gemma):
    """``Gemma3ForCausalLM``: norms on query and key heads, two RoPE bases, no caps on scores."""

    hf_class = "Gemma3ForCausalLM"
    model_type = "gemma3_text"
    name = "gemma3"
    block: ClassVar[Mapping[str, str]] = {
        **Gemma.block,
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
    }
    axes: ClassVar[Mapping[str, Axes]] = {
        **LLAMA_AXES,
        "self_attn.q_norm": HEAD_NORM,
        "self_attn.k_norm": HEAD_NORM,
    }
    default_epsilon = 1e-6
    theta = _GLOBAL_THETA
    eyes = ("v.", "mm.")
    period = 6
    wide_layers = 62

    def check(self, config: Config) -> None:
        """No cap on scores, and no scaling of the local positions."""
        super().check(config)
        require(config, "attn_logit_softcapping", None)
        require(_local(config), "rope_type", "default")

    def rope_of(self, config: Config) -> dict[str, Any]:
        """Those of the layers without a window."""
        nested = mapping(config, "rope_parameters").get(FULL)
        if nested is None:
            return rope.parameters_of(config, self.theta)
        parameters = rope.parameters_of({"rope_parameters": nested}, self.theta)
        older = mapping(config, "rope_scaling")
        if older and rope.parameters_of({"rope_parameters": {**parameters, **older}}) != parameters:
            raise rope.contradiction()
        return parameters

    def rope_entries(self, config: Config) -> list[Entry]:
        """The global base with its scaling, and the base of the layers with a window."""
        return [
            *super().rope_entries(config),
            real_entry(f"{self.name}.rope.freq_base_swa", _local(config)["rope_theta"]),
        ]

    def no_window(self, dims: Dimensions) -> int:
        """None at all: within a window, however long, positions have another base."""
        return 0

    def own_config(self, keys: Keys, dims: Dimensions) -> dict[str, Any]:
        """As of a Gemma 2; the cap on logits of Ollama's first 1B, which has none, is left out.

        Source: ``newTextModel`` of Ollama's ``model/models/gemma3`` (0.24).
        """
        own = super().own_config(keys, dims)
        if _is_ollamas(keys) and dims.layers == _UNCAPPED_LAYERS:
            own["final_logit_softcapping"] = None
        return own

    def rope_parameters(self, keys: Keys, dims: Dimensions) -> dict[str, Any]:
        """One set of parameters a kind of layer, from llama.cpp's keys or Ollama's own.

        Source: ``handle_gemma3`` of Ollama's ``llama/compat`` (0.34).
        """
        whole = super().rope_parameters(keys, dims)
        if keys.get("rope.freq_base") is None:
            whole["rope_theta"] = keys.real("rope.global.freq_base", _GLOBAL_THETA)
        unscaled = whole["rope_type"] == "default"
        if unscaled and _is_ollamas(keys) and dims.context >= _STRETCHED_CONTEXT:
            whole |= {"rope_type": "linear", "factor": _STRETCHED_FACTOR}
        theta = keys.real("rope.local.freq_base", _LOCAL_THETA)
        return {
            FULL: whole,
            SLIDING: {
                "rope_type": "default",
                "rope_theta": keys.real("rope.freq_base_swa", theta),
            },
        }


def _is_ollamas(keys: Keys) -> bool:
    silent = keys.get("attention.layer_norm_rms_epsilon") is None
    return silent or any(keys.get(key) is not None for key in _OLLAMAS_KEYS)


def _local(config: Config) -> dict[str, Any]:
    nested = mapping(config, "rope_parameters").get(SLIDING) or {}
    theta = config.get("rope_local_base_freq", _LOCAL_THETA)
    return rope.parameters_of({"rope_theta": theta, "rope_parameters": nested})
