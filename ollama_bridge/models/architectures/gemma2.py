"""Gemma 2, and what Gemma 3 shares with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from gguf.constants import GGUFValueType

from ollama_bridge.errors import ConversionError
from ollama_bridge.models.architectures.config import Config, integer, listed, real, require
from ollama_bridge.models.architectures.entries import Entry, array, number
from ollama_bridge.models.architectures.entries import real as real_entry
from ollama_bridge.models.architectures.frame import Architecture
from ollama_bridge.models.architectures.keys import Keys
from ollama_bridge.models.architectures.layout import LLAMA_BLOCK, Dimensions

SLIDING, FULL = "sliding_attention", "full_attention"
_SOFT_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")  # called so in both formats


class Gemma(Architecture):
    """Norms before and after each half of a layer, kept as weight - 1; windows in some layers.

    Attributes:
        period: Every so manieth layer attends to the whole text, unless the file lists them.
        default_caps: Of a config that is silent.
        default_window: Of a GGUF that is silent; None: no layer slides then.
        wide_layers: The one size (27B) whose attention scale llama.cpp takes from the width.
    """

    block: ClassVar[Mapping[str, str]] = {
        **LLAMA_BLOCK,
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    }
    norm_shift = 1.0
    activation = ("hidden_activation", "gelu_pytorch_tanh")
    default_head_dim = 256
    scaled_embedding = True
    ties = True
    period = 2
    default_caps: ClassVar[Mapping[str, float]] = {}
    default_window: ClassVar[int | None] = None
    wide_layers = 46

    def check(self, config: Config) -> None:
        """Only what llama.cpp computes."""
        super().check(config)
        require(config, "attention_bias", False, default=False)
        require(config, "use_bidirectional_attention", False, None)
        dims = self.dimensions(config)
        scalar = real(config, "query_pre_attn_scalar", 256)
        if scalar != self._attention_scalar(dims):
            raise ConversionError(
                f"config.json: query_pre_attn_scalar is {scalar:g}; Ollama computes "
                f"{self._attention_scalar(dims)} from the other sizes"
            )

    def layer_types(self, config: Config) -> list[str]:
        """Which layers slide, in order."""
        layers = self.dimensions(config).layers
        kinds = listed(config, "layer_types", str)
        if kinds is None:
            return self.default_layer_types(layers, config.get("sliding_window_pattern"))
        if len(kinds) != layers or not set(kinds) <= {SLIDING, FULL}:
            raise ConversionError(
                f"config.json: layer_types must name {layers} times {SLIDING} or {FULL}"
            )
        return kinds

    def default_layer_types(self, layers: int, period: object = None) -> list[str]:
        """The pattern of the published models: every so manieth layer sees everything."""
        period = period if isinstance(period, int) and period > 0 else self.period
        return [FULL if (layer + 1) % period == 0 else SLIDING for layer in range(layers)]

    def own_entries(self, config: Config) -> list[Entry]:
        """Window and soft caps."""
        kinds = self.layer_types(config)
        window = integer(config, "sliding_window", 4096)
        if SLIDING not in kinds:
            window = self.no_window(self.dimensions(config))
        entries = [number(f"{self.name}.attention.sliding_window", window)]
        if SLIDING in kinds and kinds != self.default_layer_types(len(kinds)):
            pattern = [kind == SLIDING for kind in kinds]
            key = f"{self.name}.attention.sliding_window_pattern"
            entries.append(array(key, pattern, GGUFValueType.BOOL))
        for key, setting in self._soft_caps(config):
            entries.append(real_entry(f"{self.name}.{key}", setting))
        return entries

    def no_window(self, dims: Dimensions) -> int:
        """What stands for a window where no layer slides: a pattern of none stops llama.cpp."""
        return dims.context

    def notes(self, config: Config) -> list[str]:
        """Which versions of Ollama read the pattern."""
        kinds = self.layer_types(config)
        if SLIDING not in kinds or kinds == self.default_layer_types(len(kinds)):
            return super().notes(config)
        return [
            *super().notes(config),
            f"other layers attend to a window than those of a published {self.name}; Ollama "
            "reads which from 0.34.4 on: with earlier versions the proof of the tag fails",
        ]

    def own_config(self, keys: Keys, dims: Dimensions) -> dict[str, Any]:
        """Window, soft caps, attention scale."""
        window = keys.get("attention.sliding_window", self.default_window)
        pattern = keys.get("attention.sliding_window_pattern")
        if not window:
            kinds = [FULL] * dims.layers
        elif isinstance(pattern, list) and len(pattern) == dims.layers:
            kinds = [SLIDING if slides else FULL for slides in pattern]
        else:
            kinds = self.default_layer_types(dims.layers, pattern)
        return {
            "query_pre_attn_scalar": self._attention_scalar(dims),
            # transformers wants a number also where no layer slides.
            "sliding_window": keys.integer("attention.sliding_window", self.default_window)
            if window
            else dims.context,
            "layer_types": kinds,
            **{key: self._cap(keys, key) for key in _SOFT_CAPS},
        }

    def _cap(self, keys: Keys, key: str) -> float | None:
        """A Gemma 2 that is silent has llama.cpp's, which are those of the published ones."""
        default = self.default_caps.get(key)
        return keys.real(key, default) if keys.get(key, default) else None

    def _attention_scalar(self, dims: Dimensions) -> int:
        if dims.layers == self.wide_layers:
            return dims.hidden // dims.heads
        return dims.head_dim

    def _soft_caps(self, config: Config) -> Sequence[tuple[str, float]]:
        said = {**self.default_caps, **config}
        return [(key, real(said, key)) for key in _SOFT_CAPS if said.get(key) is not None]


class Gemma2(Gemma):
    """``Gemma2ForCausalLM``: soft caps on attention scores and logits."""

    hf_class = "Gemma2ForCausalLM"
    model_type = "gemma2"
    name = "gemma2"
    default_window = 4096
    default_caps: ClassVar[Mapping[str, float]] = {
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    }
    attention = "eager"  # transformers' sdpa leaves the soft cap out

    def check(self, config: Config) -> None:
        """llama.cpp always caps, and has no output matrix of its own for a Gemma 2."""
        super().check(config)
        for cap in self.default_caps:
            real({**self.default_caps, **config}, cap)
        require(config, "tie_word_embeddings", True, default=True)
