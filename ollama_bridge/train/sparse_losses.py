"""Losses against a part of the teacher's distribution: what a soft-label store keeps.

Letters: N positions, V vocabulary, k tokens kept of the teacher. As in ``losses``: one value a
position, in nats, computed in float32 (float64 stays float64); gradients flow into the student's
argument only.
"""

from __future__ import annotations

import torch

from ollama_bridge.errors import TrainingError
from ollama_bridge.train.loss_terms import (
    check_matrix,
    check_same,
    check_temperature,
    kl_of_logprobs,
    wide,
)


def kl_top_k(
    student_logits: torch.Tensor,
    teacher_ids: torch.Tensor,
    teacher_logprobs: torch.Tensor,
    teacher_residual: torch.Tensor,
    *,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Forward KL divergence where only the teacher's k likeliest tokens are known.

    All other tokens are one class, the residual: both distributions are first summed into k + 1
    classes at temperature 1, then tempered (``p_i^(1/T) / sum_j p_j^(1/T)``), then compared as in
    :func:`~ollama_bridge.train.losses.kl_forward`, times T^2. So the student is told how much mass
    the rest has, but not how to share it out; nothing is renormalised away. At T = 1 this is a
    lower bound of the full divergence (summing classes loses information, never adds it). At
    T != 1 the rest is tempered as one class, which is not what tempering each of its tokens would
    give: that is unknown from a store; the value is still 0 if the student equals the teacher, and
    still >= 0. With k = V the residual is empty (-inf) and the value is that of ``kl_forward`` at
    every T.

    Args:
        student_logits: (N, V), unnormalised.
        teacher_ids: (N, k) int64, distinct within a row.
        teacher_logprobs: (N, k), at temperature 1.
        teacher_residual: (N,), log of the remaining mass; -inf for none.
        temperature: T > 0.

    Returns:
        (N,) divergences >= 0 (up to the rounding of the stored values).

    Raises:
        TrainingError: shapes do not fit, or T is not positive.
    """
    check_matrix(student_logits, "student_logits")
    check_matrix(teacher_ids, "teacher_ids")
    check_same(teacher_ids, teacher_logprobs, "teacher_ids", "teacher_logprobs")
    rows = student_logits.shape[0]
    if teacher_ids.shape[0] != rows or tuple(teacher_residual.shape) != (rows,):
        raise TrainingError(
            f"soft labels of {tuple(teacher_ids.shape)} and residuals of "
            f"{tuple(teacher_residual.shape)} do not fit {rows} positions"
        )
    if teacher_ids.shape[1] > student_logits.shape[1]:
        raise TrainingError(
            f"soft labels keep {teacher_ids.shape[1]} tokens, the student has only "
            f"{student_logits.shape[1]}"
        )
    check_temperature(temperature)
    logits = wide(student_logits)
    total = logits.logsumexp(-1, keepdim=True)
    classes = [logits.gather(-1, teacher_ids) - total]
    teacher = [teacher_logprobs.detach().to(logits.dtype)]
    if teacher_ids.shape[1] < logits.shape[1]:
        # 1 - sum would cancel where the student is sure; the rest's own sum does not.
        rest = logits.scatter(-1, teacher_ids, float("-inf")).logsumexp(-1, keepdim=True)
        classes.append(rest - total)
        teacher.append(teacher_residual.detach().to(logits.dtype).unsqueeze(-1))
    q = torch.log_softmax(torch.cat(classes, dim=-1) / temperature, dim=-1)
    p = torch.log_softmax(torch.cat(teacher, dim=-1) / temperature, dim=-1)
    return temperature**2 * kl_of_logprobs(p, q)
