"""Sums of losses over many positions without their logits: chunk by chunk, gradient included.

The gradient of a loss at one position does not depend on any other, and the sum's weight is known
at the end only as one factor. So each chunk's gradient is computed right behind its values and the
logits are forgotten: nothing is kept but the gradient of the hidden states and of the head. The
idea is that of fused linear losses (Liger-Kernel, arXiv 2410.10989, section 3.2); checkpointing
would compute every chunk's logits twice.

Letters: N positions, D width, V vocabulary, J losses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from ollama_bridge.models.compute.head import VocabularyHead
from ollama_bridge.models.compute.precision import product_dtype
from ollama_bridge.train.losses.loss_terms import wide

# Logits of a chunk: 50 MB a copy in float32. A step needs about six copies.
_LOGITS_PER_CHUNK = 256 * 49_152
_MIN_POSITIONS = 16

# The J sums of the losses over a chunk, from its logits (n, V) in float32 and its place in N.
ChunkLosses = Callable[[torch.Tensor, slice], Sequence[torch.Tensor]]


def chunks(positions: int, vocabulary: int) -> list[slice]:
    """Cut positions into chunks whose logits take the same memory, however many there are."""
    size = max(_MIN_POSITIONS, _LOGITS_PER_CHUNK // vocabulary)
    return [slice(start, min(start + size, positions)) for start in range(0, positions, size)]


def chunked_losses(
    head: VocabularyHead, hidden: torch.Tensor, weights: Sequence[float], losses: ChunkLosses
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted sum of losses over all positions, and each loss by itself.

    Args:
        head: From hidden states to logits.
        hidden: (N, D).
        weights: J factors.
        losses: What is summed; gradients flow through the logits alone.

    Returns:
        The weighted sum, and the J sums without weights and gradient.
    """
    names = [name for name, _ in head.named_parameters()]
    parameters = [parameter for _, parameter in head.named_parameters()]
    call = _Call(head, names, tuple(weights), losses)
    if not torch.is_grad_enabled():
        total, sums, _ = call.run(hidden, parameters, gradients=[False] * (1 + len(parameters)))
        return total, sums
    total, sums = _ChunkedLosses.apply(call, hidden, *parameters)
    return total, sums


class _Call:
    """What a call computes, apart from the tensors that autograd has to see."""

    def __init__(
        self,
        head: VocabularyHead,
        names: Sequence[str],
        weights: tuple[float, ...],
        losses: ChunkLosses,
    ) -> None:
        self._head = head
        self._names = names
        self._weights = weights
        self._losses = losses

    def sums(
        self, parameters: Mapping[str, torch.Tensor], hidden: torch.Tensor, part: slice
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted sum and sums of a chunk."""
        logits = wide(functional_call(self._head, dict(parameters), (hidden,)))
        values = torch.stack(list(self._losses(logits, part)))
        weighted = (values * values.new_tensor(self._weights)).sum()
        return weighted, values.detach()

    def run(
        self, hidden: torch.Tensor, parameters: Sequence[torch.Tensor], *, gradients: Sequence[bool]
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor | None]]:
        """Sums of all chunks, and the gradients that are asked for."""
        dtype = product_dtype(hidden)
        # Cast once and not in every chunk, as autocast does with what is not trained.
        used = [
            self._head.cast(name, dtype=dtype).requires_grad_(needed)
            for name, needed in zip(self._names, gradients[1:], strict=True)
        ]
        to_hidden = torch.empty_like(hidden) if gradients[0] else None
        to_parameters: list[torch.Tensor | None] = [None] * len(parameters)
        total = wide(hidden.new_zeros(()))
        sums = wide(hidden.new_zeros(len(self._weights)))
        named = dict(zip(self._names, used, strict=True))
        for part in chunks(hidden.shape[0], self._head.vocabulary):
            states = hidden[part].detach().requires_grad_(gradients[0])
            with torch.set_grad_enabled(any(gradients)):
                weighted, values = self.sums(named, states, part)
            total += weighted.detach()
            sums += values
            wanted = [value for value in (states, *used) if value.requires_grad]
            if wanted:
                slopes = iter(torch.autograd.grad(weighted, wanted))
                if to_hidden is not None:
                    to_hidden[part] = next(slopes)
                for place, parameter in enumerate(parameters):
                    if gradients[1 + place]:
                        _add(to_parameters, place, next(slopes), parameter.dtype)
        return total, sums, [to_hidden, *to_parameters]


def _add(
    sums: list[torch.Tensor | None], place: int, slope: torch.Tensor, dtype: torch.dtype
) -> None:
    # The first is the sum: to make zeros of a vocabulary's size takes longer than to add to them.
    before = sums[place]
    sums[place] = slope.to(dtype) if before is None else before.add_(slope)


class _ChunkedLosses(torch.autograd.Function):
    """Computes its gradient in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, call: _Call, hidden: torch.Tensor, *parameters: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        total, sums, found = call.run(hidden, parameters, gradients=ctx.needs_input_grad[1:])
        ctx.mark_non_differentiable(sums)
        ctx.found = found
        return total, sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: torch.Tensor, _: torch.Tensor) -> tuple[Any, ...]:
        # Scaled where they are, so they are there for one pass: a second copy of a vocabulary's
        # gradient would be hundreds of MB.
        found, ctx.found = ctx.found, None
        if found is None:
            raise RuntimeError("a second backward pass through the losses")
        return (None, *(None if value is None else value.mul_(scale) for value in found))
