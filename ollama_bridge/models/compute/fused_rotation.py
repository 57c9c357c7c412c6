"""Rotary positions as one function, with their gradient written out.

transformers computes ``x * cos + rotate_half(x) * sin`` of queries and keys in six steps; under
autocast each product widens x for itself, and attention rounds the float32 result. Here x is
widened once, turned in place and rounded once, and nothing but cosines and sines is kept.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from ollama_bridge.models.compute.precision import product_dtype

# Their attention calls a function of its own module by this name, in the form of :func:`rotated`.
_NAME = "apply_rotary_pos_emb"
_CLASSES = tuple(
    f"{family}Attention"
    for family in (
        "Llama", "Mistral", "Qwen2", "Qwen3", "Gemma2", "Gemma3", "Phi3", "SmolLM3", "Granite",
        "Olmo2",
    )
)  # fmt: skip


@contextlib.contextmanager
def fused_rotation(model: nn.Module) -> Iterator[None]:
    """Inside the block such attention turns by :func:`rotated`; behind it as before.

    All models of the same class do: what stands in is a function of transformers' module.

    Args:
        model: Of any architecture; where the function is another nothing is changed.
    """
    classes = {type(module) for module in model.modules() if type(module).__name__ in _CLASSES}
    places = [sys.modules[one.__module__] for one in classes]
    before = [(place, getattr(place, _NAME)) for place in places if hasattr(place, _NAME)]
    for place, _ in before:
        setattr(place, _NAME, _apply)
    try:
        yield
    finally:
        for place, function in before:
            setattr(place, _NAME, function)


def rotated(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Each pair (i, i + R/2) of the first R numbers of a head, turned by its position's angle.

    Source: Su et al. 2021, arXiv 2104.09864, equation 34, with halves in place of neighbours.

    Args:
        states: (..., N, D).
        cos: (..., N, R), R at most D, as wide as float32.
        sin: The same.

    Returns:
        (..., N, D), in the type of autocast where it is enabled.
    """
    dtype = product_dtype(states, torch.promote_types(states.dtype, cos.dtype))
    turned: torch.Tensor = _Rotation.apply(states, cos, sin, dtype)
    return turned


class _Rotation(torch.autograd.Function):
    """``y = (x1 c1 - x2 s1, x2 c2 + x1 s2)``, and its transpose for the gradient."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.dtype = states.dtype
        first, second = sin.chunk(2, -1)
        return _turned(states, cos, first, second).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        first, second = sin.chunk(2, -1)
        # What went from the first half to the second comes back by the second's sines.
        return _turned(slope, cos, -second, -first).to(ctx.dtype), None, None, None


def _turned(
    states: torch.Tensor, cos: torch.Tensor, first: torch.Tensor, second: torch.Tensor
) -> torch.Tensor:
    """``(x1 c1 - x2 first, x2 c2 + x1 second)``, and what is behind R as it is."""
    wide = states.to(torch.promote_types(states.dtype, cos.dtype))
    reach = cos.shape[-1]
    half = reach // 2
    result = wide[..., :reach] * cos
    if reach < wide.shape[-1]:
        result = torch.cat((result, wide[..., reach:]), dim=-1)
    result[..., :half].addcmul_(wide[..., half:reach], first, value=-1)
    result[..., half:reach].addcmul_(wide[..., :half], second)
    return result


def _apply(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, unsqueeze_dim: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return rotated(q, cos, sin), rotated(k, cos, sin)
