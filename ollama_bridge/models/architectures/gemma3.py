"""Gemma 3 (text)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ollama_bridge.models import rope
from ollama_bridge.models.architectures.config import Config, require
from ollama_bridge.models.architectures.entries import Entry
from ollama_bridge.models.architectures.entries import real as real_entry
from ollama_bridge.models.architectures.frame import HEAD_NORM, LLAMA_AXES, Axes, Dimensions
from ollama_bridge.models.architectures.gemma2 import FULL, SLIDING, Gemma
from ollama_bridge.models.architectures.keys import Keys

_GLOBAL_THETA, _LOCAL_THETA = 1_000_000.0, 10_000.0


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
    period = 6
    wide_layers = 62

    def check(self, config: Config) -> None:
        """No cap on scores, and no scaling of the local positions."""
        super().check(config)
        require(config, "attn_logit_softcapping", None)
        require(_local(config), "rope_type", "default")

    def rope_entries(self, config: Config) -> list[Entry]:
        """The global base with its scaling, and the base of the layers with a window."""
        return [
            *rope.entries(_global(config), self.name),
            real_entry(f"{self.name}.rope.freq_base_swa", float(_local(config)["rope_theta"])),
        ]

    def rope_parameters(self, keys: Keys, dims: Dimensions) -> dict[str, Any]:
        """One set of parameters a kind of layer."""
        return {
            FULL: super().rope_parameters(keys, dims),
            SLIDING: {
                "rope_type": "default",
                "rope_theta": keys.real("rope.freq_base_swa", _LOCAL_THETA),
            },
        }


def _global(config: Config) -> dict[str, Any]:
    nested = (config.get("rope_parameters") or {}).get(FULL)
    if nested is None:
        return rope.parameters_of({"rope_theta": _GLOBAL_THETA, **config})
    return rope.parameters_of({"rope_theta": _GLOBAL_THETA, "rope_parameters": nested})


def _local(config: Config) -> dict[str, Any]:
    nested = (config.get("rope_parameters") or {}).get(SLIDING) or {}
    theta = config.get("rope_local_base_freq", _LOCAL_THETA)
    return rope.parameters_of({"rope_theta": theta, "rope_parameters": nested})
