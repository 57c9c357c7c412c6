"""Soft labels of a teacher whose vocabulary has more tokens than the student's."""

from __future__ import annotations

import torch

from ollama_bridge.label_store.labels import SoftTargets


def into_vocabulary(soft: SoftTargets, new_ids: torch.Tensor) -> SoftTargets:
    """The same distributions over the tokens that the student has.

    The mass of a token that the student does without goes to the rest. Its place is taken by a
    rare token of the student's that is not among the row's, without mass of its own: its true one
    is below that of the row's last token, and stays part of the rest's.

    Args:
        soft: Over the teacher's vocabulary.
        new_ids: (teacher's tokens,) int64; the student's id of each, -1 of those it has not.

    Returns:
        As many tokens a row, or as many as the student has.
    """
    size = int((new_ids >= 0).sum())
    ids = new_ids.to(soft.ids.device)[soft.ids]
    gone = ids < 0
    lost = soft.logprobs.masked_fill(~gone, float("-inf")).logsumexp(-1)
    # Tokens that the student has, first; a stable sort leaves them in their order.
    order = gone.to(torch.uint8).argsort(dim=-1, stable=True)[:, :size]
    ids, gone = ids.gather(-1, order), gone.gather(-1, order)
    logprobs = soft.logprobs.gather(-1, order).masked_fill(gone, float("-inf"))
    return SoftTargets(
        torch.where(gone, _others(ids, size), ids),
        logprobs,
        torch.logaddexp(soft.residual, lost),
    )


def _others(ids: torch.Tensor, size: int) -> torch.Tensor:
    """Tokens that are not in the row, different ones in every place of a missing one; (N, k)."""
    count = min(size, 2 * ids.shape[1])  # enough, whatever the row holds
    first = size - count
    taken = torch.zeros(ids.shape[0], count + 1, dtype=torch.uint8, device=ids.device)
    taken.scatter_(1, torch.where(ids >= first, ids - first, count), 1)
    # From the end, where the rarest tokens are.
    free = size - 1 - taken[:, :count].flip(-1).argsort(dim=-1, stable=True)
    places = (ids < 0).cumsum(-1) - 1
    return free.gather(-1, places.clamp(min=0))
