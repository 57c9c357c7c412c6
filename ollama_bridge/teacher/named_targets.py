"""Distributions over a few named tokens as the soft-label store keeps them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from ollama_bridge.label_store.labels import NO_MASS_LOGPROB, SoftTargets
from ollama_bridge.teacher.alignment import Distribution


def soft_targets(
    found: Sequence[Distribution | None],
    tokens: Sequence[int],
    *,
    top_k: int,
    vocab_size: int,
) -> SoftTargets:
    """Distributions as the store keeps them: k tokens each.

    A token without a distribution is certain. Lists that are shorter are filled up with tokens of
    probability 0, from the end of the vocabulary, where the rarest are.
    """
    ids = np.empty((len(found), top_k), dtype=np.int64)
    logprobs = np.full((len(found), top_k), NO_MASS_LOGPROB, dtype=np.float32)
    residual = np.full(len(found), -math.inf, dtype=np.float32)
    for row, (one, token) in enumerate(zip(found, tokens, strict=True)):
        named: Sequence[int] = (token,) if one is None else one.ids[:top_k]
        logprobs[row, : len(named)] = 0.0 if one is None else one.logprobs[:top_k]
        if one is not None:
            residual[row] = one.residual
        taken = set(named)
        fillers = (id_ for id_ in range(vocab_size - 1, -1, -1) if id_ not in taken)
        ids[row] = [*named, *(next(fillers) for _ in range(top_k - len(named)))]
    return SoftTargets(
        torch.from_numpy(ids), torch.from_numpy(logprobs), torch.from_numpy(residual)
    )
