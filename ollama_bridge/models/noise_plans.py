"""Which type each weight of a checkpoint would get, in every file type whose noise is estimated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gguf.constants import GGMLQuantizationType

from ollama_bridge.models.architectures import Architecture
from ollama_bridge.quantization.mixes import ModelShape, plan_types


def noise_plans(
    architecture: Architecture, config: Mapping[str, Any], names: Sequence[str]
) -> dict[str, dict[str, GGMLQuantizationType]]:
    """By file type whose noise is estimated: the type of each weight of the checkpoint."""
    dims = architecture.dimensions(config)
    model = ModelShape(architecture.name, dims.layers, dims.heads, dims.kv_heads)
    rules = architecture.rules(config)
    shapes = {rule.target: rule.shape for rule in rules}
    plans = {}
    for name in names:
        types = plan_types(name, shapes, model)
        plans[name] = {rule.source: types[rule.target] for rule in rules}
        if architecture.tied(config):
            plans[name]["lm_head.weight"] = types["token_embd.weight"]
    return plans
