"""Norms in front of linear layers as one function, with their gradient written out.

transformers' module widens, squares, averages, divides and scales one step after another, and
autograd keeps most of it; the linear layers behind it then cast the float32 result, each for
itself. Here the input is kept and nothing else, and under autocast the result is in the type of
the products that read it.
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

# Of these classes, the norms of these names are read by linear layers alone.
_CLASSES = tuple(
    f"{family}RMSNorm"
    for family in ("Llama", "Mistral", "Qwen2", "Qwen3", "Phi3", "SmolLM3", "Granite")
)
_NAMES = ("input_layernorm", "post_attention_layernorm")


@contextlib.contextmanager
def fused_norms(model: nn.Module) -> Iterator[None]:
    """Inside the block such norms are computed by :func:`rms_norm`; behind it as before.

    Args:
        model: Of any architecture; where the names mean other things nothing is changed.
    """
    found = [
        module
        for name, module in model.named_modules()
        if name.endswith(_NAMES) and type(module).__name__ in _CLASSES
    ]
    with computed_by(_forward, found):
        yield


def rms_norm(hidden: torch.Tensor, weight: torch.Tensor, *, eps: float) -> torch.Tensor:
    """``weight * hidden / sqrt(mean(hidden^2) + eps)`` over the last dimension.

    Source: Zhang and Sennrich 2019, arXiv 1910.07467, equation 4.

    Args:
        hidden: (..., D).
        weight: (D,).
        eps: Keeps the root away from 0.

    Returns:
        (..., D), in the type of autocast where it is enabled.
    """
    dtype = product_dtype(hidden, torch.promote_types(hidden.dtype, weight.dtype))
    normed: torch.Tensor = _RMSNorm.apply(hidden, weight, eps, dtype)
    return normed


class _RMSNorm(torch.autograd.Function):
    """``dx = s * u - x * s^3 * mean(u * x)``, s the inverse root, u the slope times the weight."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype
    ) -> torch.Tensor:
        wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        scale = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(hidden, scale, weight)
        return (wide * scale).mul_(weight).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, scale, weight = ctx.saved_tensors
        wide = hidden.to(scale.dtype)
        to_weight = None
        if ctx.needs_input_grad[1]:
            to_weight = (slope * (wide * scale)).flatten(0, -2).sum(0)
        pulled = slope * weight
        mean = (pulled * wide).mean(-1, keepdim=True)
        to_hidden = pulled.mul_(scale).addcmul_(wide, mean.mul_(scale.pow(3)), value=-1)
        return to_hidden.to(hidden.dtype), to_weight, None, None


def _forward(module: Any, hidden: torch.Tensor) -> torch.Tensor:
    return rms_norm(hidden, module.weight, eps=module.variance_epsilon)
