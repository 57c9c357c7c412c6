"""Losses between attention maps: pure functions, one value a position.

Letters: N positions that look, K that are looked at, H heads. A map is (N, H, K), each of its rows
a distribution: 0 on what must not be seen. Rows are normalised anew, since half precision rounds
them. Everything is computed in float32 (float64 stays float64). Gradients flow into the student's
argument only.
"""

from __future__ import annotations

import torch

from ollama_bridge.errors import TrainingError
from ollama_bridge.train.losses.loss_terms import wide


def attention_kl(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """KL divergence of the student's attention from the teacher's, mean over heads.

    ``1 / H * sum_h sum_k a_hk * (log a_hk - log b_hk)``, a the teacher's map and b the student's.

    Source: Wang et al. 2020 (MiniLM), arXiv 2002.10957, equation 6.

    Args:
        student: (N, H, K).
        teacher: (N, other H, K); heads are matched by :func:`match_heads`.

    Returns:
        (N,) divergences >= 0.

    Raises:
        TrainingError: shapes do not fit.
    """
    ours, theirs = match_heads(*_normalised(student, teacher))
    tiny = torch.finfo(ours.dtype).tiny
    # A weight that was rounded to 0 has no gradient; its logarithm must still be a number.
    terms = theirs * (theirs.clamp_min(tiny).log() - ours.clamp_min(tiny).log())
    return terms.sum(-1).mean(-1)


def attention_error(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Squared distance of attention maps, mean over heads.

    ``1 / H * sum_h sum_k (a_hk - b_hk)^2``. The sum over what is looked at, and not its mean:
    that would fade with the length of the text.

    Source: the MSE of attention matrices of TinyBERT, arXiv 1909.10351, equation 7 (there before
    the softmax).

    Args:
        student: (N, H, K).
        teacher: (N, other H, K); heads are matched by :func:`match_heads`.

    Returns:
        (N,) values from 0 to 2.

    Raises:
        TrainingError: shapes do not fit.
    """
    ours, theirs = match_heads(*_normalised(student, teacher))
    return (ours - theirs).square().sum(-1).mean(-1)


def match_heads(student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Make the number of heads the same.

    Equal numbers are compared head by head. Where one is a multiple of the other, neighbours of
    the larger are averaged into one. Else all heads of either are averaged: no pairing would be
    better than another.

    Args:
        student: (N, H, K).
        teacher: (N, other H, K).
    """
    ours, theirs = student.shape[1], teacher.shape[1]
    common = min(ours, theirs)
    if max(ours, theirs) % common:
        common = 1
    return _averaged(student, common), _averaged(teacher, common)


def _averaged(maps: torch.Tensor, heads: int) -> torch.Tensor:
    if maps.shape[1] == heads:
        return maps
    rows, _, keys = maps.shape
    return maps.reshape(rows, heads, -1, keys).mean(2)


def _normalised(student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if student.dim() != 3 or teacher.dim() != 3:
        raise TrainingError(
            f"attention maps must have three dimensions, not shapes {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}"
        )
    if student.shape[0] != teacher.shape[0] or student.shape[2] != teacher.shape[2]:
        raise TrainingError(
            f"attention maps of {tuple(student.shape)} (student) do not fit maps of "
            f"{tuple(teacher.shape)} (teacher)"
        )
    ours, theirs = wide(student), wide(teacher.detach())
    return ours / ours.sum(-1, keepdim=True), theirs / theirs.sum(-1, keepdim=True)
