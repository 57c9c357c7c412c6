"""The gated activation of a feed-forward layer as one function that keeps what it reads.

``act(gate) * up`` has two steps for autograd, each of which keeps its inputs: besides gate and up
also ``act(gate)``, as wide as they are, the widest that a layer has. Here it is computed again in
the backward pass, by the same kernels from the same numbers, so values and gradients stay what
they are to the bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from ollama_bridge.models.compute.stand_ins import computed_by

# Their forward is ``down_proj(act_fn(gate_proj(x)) * up_proj(x))``; Phi3's has one matrix for two.
_CLASSES = tuple(
    f"{family}MLP"
    for family in (
        "Llama", "Mistral", "Qwen2", "Qwen3", "Gemma2", "Gemma3", "SmolLM3", "Granite", "Olmo2"
    )
)  # fmt: skip


@contextlib.contextmanager
def lean_activations(model: nn.Module) -> Iterator[None]:
    """Inside the block such layers use :func:`gated`; behind it they are as before.

    Args:
        model: Of any architecture; where a layer is made otherwise nothing is changed.
    """
    found = [module for module in model.modules() if type(module).__name__ in _CLASSES]
    with computed_by(_forward, found):
        yield


def gated(
    act: Callable[[torch.Tensor], torch.Tensor], gate: torch.Tensor, up: torch.Tensor
) -> torch.Tensor:
    """``act(gate) * up``.

    Source: Shazeer 2020, arXiv 2002.05202, equation 5.

    Args:
        act: Has no weights.
        gate: (..., M).
        up: (..., M).

    Returns:
        (..., M).
    """
    product: torch.Tensor = _Gated.apply(act, gate, up)
    return product


class _Gated(torch.autograd.Function):
    """Keeps gate and up."""

    @staticmethod
    def forward(
        ctx: Any,
        act: Callable[[torch.Tensor], torch.Tensor],
        gate: torch.Tensor,
        up: torch.Tensor,
    ) -> torch.Tensor:
        ctx.act = act
        ctx.save_for_backward(gate, up)
        return act(gate) * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        with torch.enable_grad():
            gate = gate.detach().requires_grad_(True)
            opened = ctx.act(gate)
        (to_gate,) = torch.autograd.grad(opened, gate, slope * up)
        return None, to_gate, slope * opened.detach()


def _forward(module: Any, hidden: torch.Tensor) -> torch.Tensor:
    product = gated(module.act_fn, module.gate_proj(hidden), module.up_proj(hidden))
    found: torch.Tensor = module.down_proj(product)
    return found
