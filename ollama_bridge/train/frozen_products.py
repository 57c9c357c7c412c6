"""Matrices that are not trained, kept in the type in which they are multiplied.

Autocast keeps the casts of trained weights for the length of a step; those of frozen ones it makes
anew at every call, and each stays in memory until the backward pass has used it. Cast beforehand,
they take half of what float32 takes, once, and give the same numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from ollama_bridge.models.compute.forward import CausalModel
from ollama_bridge.models.compute.memory import to_cpu
from ollama_bridge.models.compute.products import cast_products
from ollama_bridge.models.safety import read_config
from ollama_bridge.models.weights.stored import open_weights


@contextlib.contextmanager
def cast_beside_adapters(model: CausalModel, dtype: torch.dtype, folder: Path) -> Iterator[None]:
    """Cast the decoder's frozen layers inside the block; behind it they are what they were.

    The original weights are read from where they came from, one matrix at a time: kept, they would
    be in memory all the time. Behind the block the model lies on the CPU: a device that had room
    for half of it may have none for the whole.

    Args:
        model: With adapters in its layers; the weights beside them are those of ``folder``.
        dtype: Of the products.
        folder: The checkpoint.
    """
    if dtype == torch.float32:
        yield
        return
    cast_products(model.base_model, dtype, frozen_only=True)
    yield
    to_cpu(model)
    weights = open_weights(folder, read_config(folder))
    for name, layer in model.base_model.named_modules():
        source = f"{model.base_model_prefix}.{name.removesuffix('.base_layer')}"
        if not isinstance(layer, nn.Linear) or f"{source}.weight" not in weights.infos:
            continue  # the latter are the adapter's own
        layer.weight = _frozen(weights.tensor(f"{source}.weight"))
        if layer.bias is not None:
            layer.bias = _frozen(weights.tensor(f"{source}.bias"))


def _frozen(values: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(values.to(torch.float32, copy=True), requires_grad=False)
