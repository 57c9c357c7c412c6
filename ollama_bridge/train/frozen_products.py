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

from ollama_bridge.models.forward import CausalModel
from ollama_bridge.models.load import load_model
from ollama_bridge.models.products import cast_products


@contextlib.contextmanager
def cast_beside_adapters(model: CausalModel, dtype: torch.dtype, folder: Path) -> Iterator[None]:
    """Cast the decoder's frozen layers inside the block; behind it they are what they were.

    The original weights are read from where they came from: kept, they would be in memory all the
    time.

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
    whole: CausalModel = load_model(folder)
    for name, source in whole.base_model.named_modules():
        if isinstance(source, nn.Linear):
            layer = model.base_model.get_submodule(name)
            layer = getattr(layer, "base_layer", layer)
            layer.weight = _frozen(source.weight.to(layer.weight.device).clone())
            if source.bias is not None:
                layer.bias = _frozen(source.bias.to(layer.bias.device).clone())


def _frozen(values: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach(), requires_grad=False)
