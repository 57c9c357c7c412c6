"""Soft labels: what is kept of a teacher's next-token distributions, of all positions alike.

Two kinds. The likeliest tokens and the mass of all others (:class:`SoftTargets`) say exactly what
the teacher gives to the tokens that matter most, and nothing on how the rest is shared out. Drawn
tokens (:class:`SampledTargets`) say a little of everything: on the mean over draws they are the
whole distribution, so a student that learns from many positions is not drawn to any other one.

Knows neither files (``label_store``) nor losses (``train.losses``).

Letters for shapes: N positions, V vocabulary, k tokens kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch

# The logarithm that stands for no mass at all. Stores keep float16, which ends at -65504, far below
# any probability that counts.
NO_MASS_LOGPROB = -60000.0

# Running sums of a distribution are taken in float64: 64 x 151,936 of them are 78 MB.
_POSITIONS_AT_ONCE = 64


@dataclass(frozen=True)
class Targets:
    """Soft labels of N positions, of either kind: tensors that have a row for each."""

    ids: torch.Tensor

    def __len__(self) -> int:
        """Positions."""
        return int(self.ids.shape[0])

    def __getitem__(self, part: slice) -> Self:
        """Those of some of the positions."""
        return replace(self, **{name: rows[part] for name, rows in vars(self).items()})

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return replace(self, **{name: rows.to(device) for name, rows in vars(self).items()})


@dataclass(frozen=True)
class SoftTargets(Targets):
    """The likeliest tokens of N positions; all others are one, the rest.

    Attributes:
        ids: (N, k) int64.
        logprobs: (N, k) float32.
        residual: (N,) float32, the logarithm of the rest's mass.
    """

    logprobs: torch.Tensor
    residual: torch.Tensor


@dataclass(frozen=True)
class SampledTargets(Targets):
    """Tokens drawn on N positions.

    Attributes:
        ids: (N, k) int64; k is that of the position with most different tokens. Elsewhere the
            last places are empty: id 0 without weight.
        weights: (N, k) float32; the share of the draws that fell on the token. Its mean over
            draws is the token's probability; the weights of a position sum to 1.
        entropy: (N,) float32, of the whole distribution, in nats.
    """

    weights: torch.Tensor
    entropy: torch.Tensor


def has_no_mass(logprobs: torch.Tensor) -> torch.Tensor:
    """Where log-probabilities stand for no mass, also after float16; no teacher is so sure."""
    return logprobs < NO_MASS_LOGPROB / 6


def top_k_with_residual(logits: torch.Tensor, *, top_k: int) -> SoftTargets:
    """Cut full distributions down to their likeliest tokens.

    Args:
        logits: (N, V), unnormalised.
        top_k: At most V.
    """
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    kept, ids = logprobs.topk(min(top_k, logits.shape[-1]), dim=-1)
    # 1 - sum would lose every digit of a small rest; the rest's own sum keeps them.
    residual = logprobs.scatter(-1, ids, float("-inf")).logsumexp(-1)
    return SoftTargets(ids, kept, residual)


def sample_tokens(logits: torch.Tensor, offsets: torch.Tensor, *, draws: int) -> SampledTargets:
    """Draw tokens from full distributions, unbiased: ``E[weights[v]] = p_v`` for every token.

    The draws of a position are not independent but spread evenly (systematic sampling): the
    probabilities are laid end to end on [0, 1), and the tokens at ``(offset + i) / draws`` are
    taken. So a token of probability p gets ``floor(draws * p)`` or one more, where independent
    draws scatter by ``sqrt(draws * p * (1 - p))``; the mean is the same.

    Sources: Anshumann et al. 2025, "Sparse Logit Sampling: Accelerating Knowledge Distillation in
    LLMs" (ACL 2025), section 3: random sampling KD, with p itself as the proposal, so that the
    importance weights p / q are 1; systematic sampling: Kitagawa 1996, appendix.

    Args:
        logits: (N, V), unnormalised.
        offsets: (N,) float64, uniform on [0, 1).
        draws: How many a position.
    """
    parts = [
        _sample(rows, where, draws)
        for rows, where in zip(
            torch.split(logits, _POSITIONS_AT_ONCE),
            torch.split(offsets, _POSITIONS_AT_ONCE),
            strict=True,
        )
    ]
    return join_sampled(parts)


def join_sampled(parts: Sequence[SampledTargets]) -> SampledTargets:
    """Positions behind one another, padded to the most tokens that one of them has."""
    width = max(part.ids.shape[1] for part in parts)

    def padded(tensor: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(tensor, (0, width - tensor.shape[1]))

    return SampledTargets(
        torch.cat([padded(part.ids) for part in parts]),
        torch.cat([padded(part.weights) for part in parts]),
        torch.cat([part.entropy for part in parts]),
    )


def join_top_k(parts: Sequence[SoftTargets]) -> SoftTargets:
    """Positions behind one another."""
    return SoftTargets(
        torch.cat([part.ids for part in parts]),
        torch.cat([part.logprobs for part in parts]),
        torch.cat([part.residual for part in parts]),
    )


def _sample(logits: torch.Tensor, offsets: torch.Tensor, draws: int) -> SampledTargets:
    if logits.device.type == "mps":  # it has no float64
        logits = logits.cpu()
    offsets = offsets.to(logits.device, torch.float64)
    logprobs = torch.log_softmax(logits.double(), dim=-1)
    shares = logprobs.exp()
    entropy = -(shares * logprobs.clamp_min(torch.finfo(torch.float64).min)).sum(-1)
    ends = shares.cumsum(-1)
    places = (offsets.unsqueeze(-1) + torch.arange(draws, device=logits.device)) / draws
    # The sum of all shares misses 1 by rounding, so places are measured by it; the last one may
    # still round up to the very end, behind the last token that has any share.
    total = ends[:, -1:].clone()
    drawn = torch.searchsorted(ends, places * total, right=True)
    drawn = drawn.minimum(torch.searchsorted(ends, total))
    # Places ascend, so equal tokens are neighbours.
    new = torch.ones_like(drawn, dtype=torch.bool)
    new[:, 1:] = drawn[:, 1:] != drawn[:, :-1]
    column = new.cumsum(-1) - 1
    width = int(column.max()) + 1
    ids = drawn.new_zeros(len(drawn), width).scatter_(1, column, drawn)
    counts = ids.new_zeros(ids.shape).scatter_add_(1, column, torch.ones_like(drawn))
    return SampledTargets(ids, counts.float() / draws, entropy.float())
