"""What the arithmetic of a GGUF type does to a model: an estimate, before any daemon is asked.

llama.cpp multiplies weights and activations in the type of the weights: with F16 weights the
activations are rounded to F16, with Q8_0 to blocks of 32 numbers and one scale. The same is done
here, in torch. How far a faithful daemon may lie from float32 follows from it: hardly at all for
most models, much further for one whose activations explode, such as a student that just lost its
layers. Does not know probes or bounds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

Rounding = Callable[[torch.Tensor], torch.Tensor]
_BLOCK = 32


def _to_f16(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.float16).to(torch.float32)


def _to_bf16(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.bfloat16).to(torch.float32)


def _to_q8_0(values: torch.Tensor) -> torch.Tensor:
    if values.shape[-1] % _BLOCK:
        return _to_f16(values)  # as the converter does with rows that do not divide
    blocks = values.reshape(*values.shape[:-1], -1, _BLOCK)
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    inverse = torch.where(scale > 0, 1 / scale, torch.zeros_like(scale))
    return ((blocks * inverse).round() * _to_f16(scale)).reshape(values.shape)


ROUNDINGS: dict[str, Rounding] = {"f16": _to_f16, "bf16": _to_bf16, "q8_0": _to_q8_0}


@contextlib.contextmanager
def rounded(model: nn.Module, rounding: Rounding) -> Iterator[None]:
    """Inside the block, every matrix product of the model rounds both of its sides.

    Weights are rounded one matrix at a time and not kept, so this needs no second model in memory.
    """
    changed: list[nn.Module] = []
    try:
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.forward = partial(_linear, module, rounding)  # type: ignore[method-assign]
                changed.append(module)
            elif isinstance(module, nn.Embedding):
                module.forward = partial(_embedding, module, rounding)  # type: ignore[method-assign]
                changed.append(module)
        yield
    finally:
        for module in changed:
            del module.forward  # the class's own is found again


def _linear(module: nn.Linear, rounding: Rounding, values: torch.Tensor) -> torch.Tensor:
    return nn.functional.linear(rounding(values), rounding(module.weight), module.bias)


def _embedding(module: nn.Embedding, rounding: Rounding, ids: torch.Tensor) -> torch.Tensor:
    return rounding(nn.functional.embedding(ids, module.weight))
