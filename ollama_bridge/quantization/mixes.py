"""Which type each tensor of a file gets: llama.cpp's mixes and its fallbacks.

A file type is a base type and exceptions: the output matrix, values of the attention and the
second half of the MLP are coarsened less, in all layers or in some. A mix gives a plan, a mapping
from tensor to type, which is all that the writer knows: any other rule may make one.

Source: ``llama_tensor_get_type_impl`` and ``tensor_type_fallback`` in ``llama-quant.cpp`` of
llama.cpp; held against ``llama-quantize`` itself by tests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from ollama_bridge.quantization.file_types import FILE_TYPES, parse

Type = GGMLQuantizationType
TypePlan = Mapping[str, GGMLQuantizationType]

_BASES = {
    name: GGMLQuantizationType[re.sub(r"_K_[SML]$", "_K", name.upper())] for name in FILE_TYPES
}
_PLAIN = frozenset({Type.F32, Type.F16, Type.BF16})
# Where a row is no multiple of 256.
_FALLBACKS = {
    Type.Q2_K: Type.Q4_0,
    Type.Q3_K: Type.Q4_0,
    Type.Q4_K: Type.Q5_0,
    Type.Q5_K: Type.Q5_1,
    Type.Q6_K: Type.Q8_0,
}
_LAYER_PART = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
_LAYERS_OF_A_70B = 80


@dataclass(frozen=True)
class ModelShape:
    """What a mix depends on beside the tensors' names."""

    architecture: str
    layers: int
    heads: int
    kv_heads: int

    @property
    def is_a_70b(self) -> bool:
        """One with so few value heads that they are worth more bits."""
        few = self.architecture == "qwen2" or self.heads != self.kv_heads
        known = self.architecture in ("llama", "qwen2")
        return known and few and self.layers == _LAYERS_OF_A_70B


def base_type(file_type: str) -> GGMLQuantizationType:
    """The type of most matrices of a file.

    Raises:
        ConfigError: there is no such file type.
    """
    return _BASES[parse(file_type)]


def plan_types(
    file_type: str,
    shapes: Mapping[str, tuple[int, ...]],
    model: ModelShape,
    *,
    with_importance: bool = False,
) -> dict[str, GGMLQuantizationType]:
    """The type of every tensor.

    Args:
        file_type: One of the known ones.
        shapes: Of all tensors by name in the GGUF, rows first.
        model: The model that they belong to.
        with_importance: There is an importance matrix; two mixes differ then.

    Raises:
        ConfigError: there is no such file type.
    """
    base = base_type(file_type)
    mix = _Mix(file_type, base, model, with_importance, tied="output.weight" not in shapes)
    plan = {}
    for name, shape in shapes.items():
        if len(shape) < 2 or "_norm.weight" in name or not name.endswith("weight"):
            plan[name] = Type.F32
        elif base in _PLAIN:
            plan[name] = base
        else:
            plan[name] = fitting(mix.type_of(name, shape[-1]), shape[-1])
    return plan


def fitting(wanted: GGMLQuantizationType, columns: int) -> GGMLQuantizationType:
    """The type itself, or what stands in for it where rows do not divide into its blocks."""
    for type_ in (wanted, _FALLBACKS.get(wanted, wanted)):
        if columns % GGML_QUANT_SIZES[type_][0] == 0:
            return type_
    return Type.F16


@dataclass(frozen=True)
class _Mix:
    file_type: str
    base: GGMLQuantizationType
    model: ModelShape
    with_importance: bool
    tied: bool

    def type_of(self, name: str, columns: int) -> GGMLQuantizationType:
        """Before fallbacks."""
        if name == "output.weight" or (self.tied and name == "token_embd.weight"):
            return self._output(columns)
        match = _LAYER_PART.fullmatch(name)
        if match is None:
            return self.base
        layer, part = int(match[1]), match[2]
        if part in ("attn_v", "attn_qkv"):
            return self._values(layer)
        if part == "ffn_down":
            return self._down(layer)
        if part == "attn_output":
            return {
                "q2_k": Type.Q3_K,
                "q3_k_m": Type.Q4_K,
                "q3_k_l": Type.Q5_K,
            }.get(self.file_type, self.base)
        return self.base

    def _output(self, columns: int) -> GGMLQuantizationType:
        if columns % GGML_QUANT_SIZES[self.base][0] or self.base == Type.Q8_0:
            return Type.Q8_0
        return Type.Q6_K

    def _values(self, layer: int) -> GGMLQuantizationType:
        type_ = self.base
        match self.file_type:
            case "q2_k":
                grouped = self.model.heads // self.model.kv_heads >= 4
                type_ = Type.Q4_K if grouped else Type.Q3_K
            case "q3_k_m":
                type_ = Type.Q5_K if layer < 2 else Type.Q4_K
            case "q3_k_l":
                type_ = Type.Q5_K
            case "q4_k_m" | "q5_k_m" if self._is_sensitive(layer):
                type_ = Type.Q6_K
            case "q4_k_s" if layer < 4:
                type_ = Type.Q5_K
        if self.model.is_a_70b and type_ in (Type.Q3_K, Type.Q4_K):
            return Type.Q5_K
        return type_

    def _down(self, layer: int) -> GGMLQuantizationType:
        eighth = self.model.layers // 8
        match self.file_type:
            case "q2_k":
                return Type.Q3_K
            case "q3_k_m":
                return Type.Q5_K if layer < self.model.layers // 16 else Type.Q4_K
            case "q3_k_l":
                return Type.Q5_K
            case "q4_k_m" | "q5_k_m" if self._is_sensitive(layer):
                return Type.Q6_K
            case "q4_k_s" if layer < eighth:
                return Type.Q5_K
            case "q4_0" if self.with_importance and layer < eighth:
                return Type.Q4_1
            case "q5_0" if self.with_importance and layer < eighth:
                return Type.Q5_1
        return self.base

    def _is_sensitive(self, layer: int) -> bool:
        """The first eighth of the layers, the last, and every third between."""
        layers = self.model.layers
        eighth = layers // 8
        return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
