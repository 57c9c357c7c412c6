"""What the arithmetic of a GGUF type does to a model: an estimate, before any daemon is asked.

llama.cpp multiplies weights and activations in types that go together: F16 weights with
activations in F16, blocks of 4 to 8 bits with blocks of 8 bits. The same is done here, in torch,
with each weight in the type that it would get in the file. How far a faithful daemon may lie from
float32 follows from it: hardly at all for most models, much further for one whose activations
explode, such as a student that just lost its layers. An encoder searches good scales, which would
take too long here: the nearest ones stand in for them, and err a little more. Does not know
probes or bounds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from gguf.constants import GGMLQuantizationType
from torch import nn

Rounding = Callable[[torch.Tensor], torch.Tensor]
Type = GGMLQuantizationType
_TINY = 1e-30


@dataclass(frozen=True)
class Arithmetic:
    """How a type rounds both sides of a product."""

    weights: Rounding
    activations: Rounding


def _unchanged(values: torch.Tensor) -> torch.Tensor:
    return values


def _to_f16(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.float16).to(torch.float32)


def _to_bf16(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.bfloat16).to(torch.float32)


def _to_eight_bits(values: torch.Tensor, *, block: int) -> torch.Tensor:
    """Integers of -127..127 and a scale for each block."""
    blocks = values.reshape(*values.shape[:-1], -1, block)
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    inverse = torch.where(scale > _TINY, 1 / scale, 0)
    return ((blocks * inverse).round_() * _to_f16(scale)).reshape(values.shape)


def _to_signed(values: torch.Tensor, *, block: int, levels: int) -> torch.Tensor:
    """Integers of -levels..levels - 1 and a scale for each block."""
    blocks = values.reshape(*values.shape[:-1], -1, block)
    low, high = blocks.aminmax(dim=-1, keepdim=True)
    scale = torch.where(high > -low, high, low) / -levels
    inverse = torch.where(scale.abs() > _TINY, 1 / scale, 0)
    rounded = (blocks * inverse).round_().clamp_(-levels, levels - 1)
    return (rounded * _to_f16(scale)).reshape(values.shape)


def _to_unsigned(values: torch.Tensor, *, block: int, levels: int) -> torch.Tensor:
    """Integers of 0..levels, a scale and a minimum for each block."""
    blocks = values.reshape(*values.shape[:-1], -1, block)
    low, high = blocks.aminmax(dim=-1, keepdim=True)
    low = _to_f16(low.clamp(max=0))
    scale = (high - low) / levels
    inverse = torch.where(scale > _TINY, 1 / scale, 0)
    rounded = ((blocks - low) * inverse).round_().clamp_(0, levels)
    return (rounded * _to_f16(scale) + low).reshape(values.shape)


_SMALL_BLOCKS = partial(_to_eight_bits, block=32)
_LARGE_BLOCKS = partial(_to_eight_bits, block=256)

ARITHMETIC: Mapping[GGMLQuantizationType, Arithmetic] = {
    Type.F32: Arithmetic(_unchanged, _unchanged),
    Type.F16: Arithmetic(_to_f16, _to_f16),
    Type.BF16: Arithmetic(_to_bf16, _to_bf16),
    Type.Q8_0: Arithmetic(_SMALL_BLOCKS, _SMALL_BLOCKS),
    Type.Q5_1: Arithmetic(partial(_to_unsigned, block=32, levels=31), _SMALL_BLOCKS),
    Type.Q5_0: Arithmetic(partial(_to_signed, block=32, levels=16), _SMALL_BLOCKS),
    Type.Q4_1: Arithmetic(partial(_to_unsigned, block=32, levels=15), _SMALL_BLOCKS),
    Type.Q4_0: Arithmetic(partial(_to_signed, block=32, levels=8), _SMALL_BLOCKS),
    Type.Q6_K: Arithmetic(partial(_to_signed, block=16, levels=32), _LARGE_BLOCKS),
    Type.Q5_K: Arithmetic(partial(_to_unsigned, block=32, levels=31), _LARGE_BLOCKS),
    Type.Q4_K: Arithmetic(partial(_to_unsigned, block=32, levels=15), _LARGE_BLOCKS),
    Type.Q3_K: Arithmetic(partial(_to_signed, block=16, levels=4), _LARGE_BLOCKS),
    Type.Q2_K: Arithmetic(partial(_to_unsigned, block=16, levels=3), _LARGE_BLOCKS),
}


@contextlib.contextmanager
def rounded(
    model: nn.Module, types: Mapping[str, GGMLQuantizationType], *, activations_only: bool = False
) -> Iterator[None]:
    """Inside the block, every matrix product of the model rounds both of its sides.

    Weights are rounded one matrix at a time and not kept, so this needs no second model in memory.

    Args:
        types: Of its weights, by name in the checkpoint; what is not named is left alone.
        activations_only: The weights are what a file decodes to already.
    """
    changed: list[nn.Module] = []
    try:
        for name, module in model.named_modules():
            type_ = types.get(f"{name}.weight")
            if type_ is None:
                continue
            arithmetic = ARITHMETIC[type_]
            if activations_only:
                arithmetic = replace(arithmetic, weights=_unchanged)
            if isinstance(module, nn.Linear):
                module.forward = partial(_linear, module, arithmetic)  # type: ignore[method-assign]
                changed.append(module)
            elif isinstance(module, nn.Embedding):
                module.forward = partial(_embedding, module.forward, arithmetic)  # type: ignore[method-assign]
                changed.append(module)
        yield
    finally:
        for module in changed:
            del module.forward  # the class's own is found again


def _linear(module: nn.Linear, arithmetic: Arithmetic, values: torch.Tensor) -> torch.Tensor:
    weight = arithmetic.weights(module.weight)
    return nn.functional.linear(arithmetic.activations(values), weight, module.bias)


def _embedding(forward: Rounding, arithmetic: Arithmetic, ids: torch.Tensor) -> torch.Tensor:
    # Of what the class gives, for some scale it; blocks round the same at any scale.
    return arithmetic.weights(forward(ids))
