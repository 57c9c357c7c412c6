"""The tensors of a GGUF, planned from a checkpoint by its architecture's rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from ollama_bridge.models.architectures import Architecture
from ollama_bridge.models.architectures.config import Config
from ollama_bridge.models.architectures.layout import TensorRule, permute
from ollama_bridge.models.weights.floats import F64, Array, to_float32
from ollama_bridge.models.weights.tensor_match import match_tensors
from ollama_bridge.models.weights.tensors import Weights


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of the GGUF, and how to get it when its turn comes.

    Attributes:
        name: In the GGUF.
        shape: Rows first.
        load: Gives the values, of any type of ``models.weights.floats``; called once.
    """

    name: str
    shape: tuple[int, ...]
    load: Callable[[], Array]


def plan_tensors(architecture: Architecture, config: Config, weights: Weights) -> list[TensorPlan]:
    """Every tensor of the GGUF, in the file's order.

    Raises:
        ModelError: a weight is missing, left over or of another shape.
    """
    plans = [
        TensorPlan(rule.target, rule.shape, partial(_load, weights, rule))
        for rule in match_tensors(architecture, config, weights)
    ]
    for name, values in architecture.computed(config).items():
        plans.append(TensorPlan(name, values.shape, partial(np.asarray, values)))
    return plans


def source_notes(weights: Weights) -> list[str]:
    """What the user should know of where the weights come from."""
    if not weights.quantized:
        return []
    return [
        f"the weights were already rounded to {', '.join(sorted(weights.quantized))}: no type "
        "makes them more precise than that"
    ]


def _load(weights: Weights, rule: TensorRule) -> Array:
    values = weights.array(rule.source)
    if values.dtype == F64:
        values = to_float32(values)
    if rule.heads is not None:
        values = permute(values, rule.heads)
    return to_float32(values) + np.float32(rule.shift) if rule.shift else values
