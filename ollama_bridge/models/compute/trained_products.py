"""Products with trained matrices that keep no cast of these for the gradient.

Autocast casts a float32 matrix where it is multiplied, and autograd keeps the cast until the
backward pass: half of all weights once more, where a step holds most. Here the matrix itself is
kept, and cast again where the gradient needs it: the same numbers from the same kernels. The second
cast reads each weight once more; of a batch that is computed in parts that would be every part's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from ollama_bridge.models.compute.precision import product_dtype
from ollama_bridge.models.compute.stand_ins import computed_by


@contextlib.contextmanager
def lean_products(model: nn.Module) -> Iterator[None]:
    """Inside the block trained linear layers are computed so; behind it they are as before.

    Only where autocast keeps no casts (``cache_enabled=False``): those that it keeps serve several
    forward passes.

    Args:
        model: The decoder, without the vocabulary's projection.
    """
    found = [
        module
        for module in model.modules()
        if type(module) is nn.Linear and module.weight.requires_grad
    ]
    with computed_by(_forward, found):
        yield


class _Product(torch.autograd.Function):
    """``x W^T + b`` in the type of x."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.bias_dtype = None if bias is None else bias.dtype
        dtype = hidden.dtype
        return nn.functional.linear(
            hidden, weight.to(dtype), None if bias is None else bias.to(dtype)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        to_hidden = to_weight = to_bias = None
        flat = slope.flatten(0, -2)
        if ctx.needs_input_grad[0]:
            to_hidden = flat.mm(weight.to(slope.dtype)).view(hidden.shape)
        if ctx.needs_input_grad[1]:
            to_weight = flat.t().mm(hidden.flatten(0, -2)).to(weight.dtype)
        if ctx.bias_dtype is not None and ctx.needs_input_grad[2]:
            to_bias = flat.sum(0).to(ctx.bias_dtype)
        return to_hidden, to_weight, to_bias


def _forward(module: Any, hidden: torch.Tensor) -> torch.Tensor:
    device = hidden.device.type
    if not torch.is_autocast_enabled(device) or torch.is_autocast_cache_enabled():
        plain: torch.Tensor = nn.functional.linear(hidden, module.weight, module.bias)
        return plain
    product: torch.Tensor = _Product.apply(
        hidden.to(product_dtype(hidden)), module.weight, module.bias
    )
    return product
