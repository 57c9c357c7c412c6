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
