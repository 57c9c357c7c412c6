"""Attention over a row of texts without padding, behind a prefix that all of them share.

Everything else in a decoder looks at one token at a time, so the real tokens of a batch can go
through it as one row. Attention alone has to know which of them belong together. Its gradient is
written out: what is kept for it is kept once, and in the type of the products.

Letters as in ``batches``; N = P + the real tokens behind the prefix, H query heads, K key heads,
D the width of a head.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ollama_bridge.encoding.batches import Batch
from ollama_bridge.models.compute.precision import product_dtype

# By this name transformers' models find it; without a layout it is what they call ``eager``.
PACKED_ATTENTION = "packed"


@dataclass(frozen=True)
class Block:
    """Texts of the row that see the same beginning: the prefix by itself, or all behind it.

    Attributes:
        part: Of the row.
        asking: (B, T) places that look.
        seen: (B, S) places that are looked at: S - T that all may see, and those that look.
        real: Of the B * T, those that are kept.
    """

    part: slice
    asking: torch.Tensor
    seen: torch.Tensor
    real: torch.Tensor

    @property
    def shared(self) -> int:
        """S - T."""
        return self.seen.shape[1] - self.asking.shape[1]

    @functools.cached_property
    def later(self) -> torch.Tensor:
        """(T, 1, S); -inf for each place behind the one that looks, 0 for the others."""
        shape = (self.asking.shape[1], self.seen.shape[1])
        every = torch.full(shape, float("-inf"), device=self.seen.device)
        return every.triu(self.shared + 1).unsqueeze(1)


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a batch are in the row.

    Attributes:
        shared: P.
        places: (B, T) int64; the place in the row of each token behind the prefix; of padding some
            place or other.
        real: (N - P,) int64; which of the B * T are no padding, in the row's order.
    """

    shared: int
    places: torch.Tensor
    real: torch.Tensor

    @classmethod
    def of(cls, batch: Batch) -> Layout:
        """The layout of a batch."""
        shared = int(batch.prefix_ids.shape[0])
        mask = batch.attention_mask[:, shared:]
        places = mask.flatten().cumsum(0).view_as(mask) + (shared - 1)
        return cls(shared, places, mask.flatten().nonzero()[:, 0])

    @functools.cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The prefix, where there is one, and what is behind it."""
        first = torch.arange(self.shared, device=self.places.device)
        before = first.expand(self.places.shape[0], self.shared)
        seen = torch.cat((before, self.places), dim=1)
        behind = Block(slice(self.shared, None), self.places, seen, self.real)
        if not self.shared:
            return (behind,)
        alone = first.unsqueeze(0)
        return Block(slice(0, self.shared), alone, alone, first), behind

    def row(self, prefix: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
        """(N,) values: those of the prefix (P,), and of what follows (B, T) without padding."""
        return torch.cat((prefix, rest.flatten().index_select(0, self.real)))


def suits(config: Any, *, longest: int) -> bool:
    """Whether a model's attention is of the plain kind that is computed here.

    Args:
        longest: Tokens of the longest text; a window as wide hides nothing.
    """
    window = getattr(config, "sliding_window", None)
    return (
        not getattr(config, "attention_dropout", 0.0)
        and getattr(config, "attn_logit_softcapping", None) is None
        and (window is None or window >= longest)
    )


@functools.cache
def register() -> None:
    """Make it known to transformers, once a process."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(PACKED_ATTENTION, _attention)
    AttentionMaskInterface.register(PACKED_ATTENTION, eager_mask)


class _PackedAttention(torch.autograd.Function):
    """``softmax(scaling * Q K^T) V`` of every block."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        layout: Layout,
        scaling: float,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        ctx.types = (query.dtype, key.dtype, value.dtype)
        # Scaled while they are few: there are more scores, and these are rounded already.
        query, key, value = (query * scaling).to(dtype), key.to(dtype), value.to(dtype)
        output = query.new_empty(query.shape)
        kept: list[torch.Tensor] = []
        for block in layout.blocks:
            asks = _by_head(_take(query, block.asking), key.shape[1])
            keys, values = (_by_head(_take(one, block.seen), key.shape[1]) for one in (key, value))
            scores = torch.bmm(asks, keys.transpose(1, 2))
            of_tokens = scores.view(len(asks), block.asking.shape[1], -1, keys.shape[1])
            of_tokens.add_(block.later)
            looks = torch.softmax(scores, dim=-1)  # computes in float32, whatever it is given
            found = _by_token(torch.bmm(looks, values), block.asking)
            output[block.part] = found.index_select(0, block.real)
            kept += [asks, keys, values, looks]
        ctx.save_for_backward(*kept)
        ctx.layout, ctx.scaling, ctx.heads = layout, scaling, key.shape[1]
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        kept = iter(ctx.saved_tensors)
        shape = (slope.shape[0], ctx.heads, slope.shape[2])
        to_query = slope.new_zeros(slope.shape, dtype=ctx.types[0])
        wide = [_wide(dtype) for dtype in ctx.types[1:]]
        to_key, to_value = (slope.new_zeros(shape, dtype=dtype) for dtype in wide)
        for block in ctx.layout.blocks:
            asks, keys, values, looks = (next(kept) for _ in range(4))
            # Padding was not kept, so nothing comes back from it.
            padded = slope.new_zeros((block.asking.numel(), *slope.shape[1:]))
            padded.index_copy_(0, block.real, slope[block.part])
            back = _by_head(padded.view(*block.asking.shape, *slope.shape[1:]), ctx.heads)
            _add_seen(to_value, torch.bmm(looks.transpose(1, 2), back), block)
            pull = torch.bmm(back, values.transpose(1, 2))
            pull = torch.ops.aten._softmax_backward_data(pull, looks, -1, looks.dtype)
            found = _by_token(torch.bmm(pull, keys), block.asking)
            to_query[block.part] = found.index_select(0, block.real)
            _add_seen(to_key, torch.bmm(pull.transpose(1, 2), asks), block)
        to_key, to_value = to_key.to(ctx.types[1]), to_value.to(ctx.types[2])
        return to_query.mul_(ctx.scaling), to_key, to_value, None, None, None


def _add_seen(total: torch.Tensor, found: torch.Tensor, block: Block) -> None:
    """Add the gradients of what was seen (B * K, S, D) to those of the row (N, K, D)."""
    by_token = found.view(len(block.seen), -1, *found.shape[1:]).transpose(1, 2)
    if block.shared:
        total[: block.shared] += by_token[:, : block.shared].sum(0, dtype=_wide(found.dtype))
    own = by_token[:, block.shared :].flatten(0, 1)
    total[block.part] += own.index_select(0, block.real)


def _take(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(N, H, D) of a row at some places (B, T), as (B, T, H, D)."""
    return values.index_select(0, places.flatten()).view(*places.shape, *values.shape[1:])


def _by_head(values: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, T, H, D) as (B * K, T * H / K, D): beside each other who shares a key head."""
    rows, tokens, _, width = values.shape
    grouped = values.view(rows, tokens, heads, -1, width).transpose(1, 2)
    return grouped.reshape(rows * heads, -1, width)


def _by_token(values: torch.Tensor, asking: torch.Tensor) -> torch.Tensor:
    """The way back: (B * K, T * H / K, D) as (B * T, H, D)."""
    (rows, tokens), width = asking.shape, values.shape[2]
    grouped = values.view(rows, -1, tokens, values.shape[1] // tokens, width).transpose(1, 2)
    return grouped.reshape(rows * tokens, -1, width)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """At least float32."""
    return torch.promote_types(dtype, torch.float32)


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What transformers calls: (1, H, N, D) and twice (1, K, N, D) to (1, N, H, D)."""
    if layout is None:  # then it stands in for the model's own, and hands on what that is given
        eager = sys.modules[type(module).__module__].eager_attention_forward
        plain: tuple[torch.Tensor, torch.Tensor] = eager(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
        return plain
    rows = (one[0].transpose(0, 1) for one in (query, key, value))
    output: torch.Tensor = _PackedAttention.apply(*rows, layout, scaling, product_dtype(query))
    return output.unsqueeze(0), None
