"""The tensors of a GGUF, planned from a checkpoint by its architecture's rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ollama_bridge.errors import ConversionError
from ollama_bridge.models.architectures import Architecture
from ollama_bridge.models.architectures.config import Config
from ollama_bridge.models.architectures.frame import Float32Array, TensorRule, permute
from ollama_bridge.models.weights import Weights

_COMPUTED = "rotary_emb.inv_freq"  # buffers that old checkpoints saved
_OUTPUT = "lm_head.weight"


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of the GGUF, and how to get it when its turn comes.

    Attributes:
        name: In the GGUF.
        shape: Rows first.
        load: Gives the values; called once.
    """

    name: str
    shape: tuple[int, ...]
    load: Callable[[], Tensor]


def plan_tensors(architecture: Architecture, config: Config, weights: Weights) -> list[TensorPlan]:
    """Every tensor of the GGUF, in the file's order.

    Args:
        architecture: Of the checkpoint.
        config: Its ``config.json``.
        weights: Its tensors.

    Raises:
        ConversionError: a weight is missing, left over or of another shape.
    """
    left = {name for name in weights.infos if not name.endswith(_COMPUTED)}
    if architecture.tied(config):
        left.discard(_OUTPUT)  # some savers write the shared matrix twice
    plans = []
    for rule in architecture.rules(config):
        if rule.source not in left:
            if rule.optional:
                continue
            raise ConversionError(f"tensor {rule.source!r} is missing from the checkpoint")
        left.discard(rule.source)
        shape = weights.infos[rule.source].shape
        if shape != rule.shape:
            raise ConversionError(
                f"tensor {rule.source!r} has shape {shape}, config.json says {rule.shape}"
            )
        plans.append(TensorPlan(rule.target, shape, partial(_load, weights, rule)))
    if left:
        raise ConversionError(
            f"tensors that a {architecture.model_type} has not: {', '.join(sorted(left)[:3])}",
            hint="merge adapters first; see ollama-bridge convert --help",
        )
    for name, values in architecture.computed(config).items():
        plans.append(TensorPlan(name, values.shape, partial(_computed, values)))
    return plans


def source_notes(weights: Weights) -> list[str]:
    """What the user should know of where the weights come from."""
    if not weights.quantized:
        return []
    return [
        f"the weights were rounded to {', '.join(sorted(weights.quantized))} before: no type makes "
        "them better than that"
    ]


def _load(weights: Weights, rule: TensorRule) -> Tensor:
    values = weights.tensor(rule.source).float()
    if rule.heads is not None:
        values = permute(values, rule.heads)
    return values + rule.shift if rule.shift else values


def _computed(values: Float32Array) -> Tensor:
    return torch.from_numpy(values)
