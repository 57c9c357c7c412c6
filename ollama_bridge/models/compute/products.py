"""The matrices of products, kept in the type in which autocast would multiply them.

The same numbers as with float32 weights: autocast casts these, and these alone, at every call.
What is read otherwise (embeddings, norms) stays as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


def cast_products(model: nn.Module, dtype: torch.dtype, *, frozen_only: bool = False) -> None:
    """Cast them for good, biases included; they are not trained any more.

    Args:
        model: A matrix that is also an embedding stays float32 there.
        dtype: Of the products; float32 changes nothing.
        frozen_only: Leave those alone that are trained.
    """
    if dtype == torch.float32:
        return
    for module in model.modules():
        if isinstance(module, nn.Linear) and not (frozen_only and module.weight.requires_grad):
            module.weight = nn.Parameter(module.weight.detach().to(dtype), requires_grad=False)
            if module.bias is not None:
                module.bias = nn.Parameter(module.bias.detach().to(dtype), requires_grad=False)


def freeze_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast the products of a model that will not be trained, and let go of what they were.

    Args:
        model: All of its parameters stop asking for a gradient.
        dtype: Of the products; float32 changes no weight.
    """
    model.requires_grad_(False)
    if dtype == torch.float32:
        return
    cast_products(model, dtype)
    # A file stays mapped, and what was read of it in memory, for as long as one tensor is.
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


@contextlib.contextmanager
def products_in(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Inside the block they are cast once, instead of at every call; behind it all is as before.

    Args:
        model: In training; its parameters are the same objects again.
        dtype: Of the products.
    """
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    before = [(module.weight, module.bias) for module in linear]
    try:
        cast_products(model, dtype)
        yield
    finally:
        for module, (weight, bias) in zip(linear, before, strict=True):
            module.weight, module.bias = weight, bias
