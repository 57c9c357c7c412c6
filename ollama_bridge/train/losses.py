"""Losses of distillation: pure functions, one value a position, in nats.

Letters: N positions, V vocabulary, D width. Everything is computed in float32 (float64 stays
float64). Gradients flow into the student's argument only. Where only a part of the teacher's
distribution is known, see ``sparse_losses``.
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


def kl_forward(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, *, temperature: float = 1.0
) -> torch.Tensor:
    """Forward Kullback-Leibler divergence over the whole vocabulary.

    ``T^2 * sum_v p_v * (log p_v - log q_v)`` with ``p = softmax(teacher / T)`` and
    ``q = softmax(student / T)``. The teacher's entropy is in it, so it is 0 when both are equal.
    T^2 keeps the gradient's size independent of T.

    Source: Hinton et al. 2015, arXiv 1503.02531, section 2.

    Args:
        student_logits: (N, V), unnormalised.
        teacher_logits: (N, V), unnormalised.
        temperature: T > 0.

    Returns:
        (N,) divergences >= 0.

    Raises:
        TrainingError: shapes differ, or T is not positive.
    """
    check_matrix(student_logits, "student_logits")
    check_same(student_logits, teacher_logits, "student_logits", "teacher_logits")
    check_temperature(temperature)
    q = torch.log_softmax(wide(student_logits) / temperature, dim=-1)
    p = torch.log_softmax(wide(teacher_logits.detach()) / temperature, dim=-1)
    return temperature**2 * kl_of_logprobs(p, q)


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """``-log softmax(logits)[target]``: the loss on hard labels.

    Args:
        logits: (N, V), unnormalised.
        targets: (N,) int64.

    Returns:
        (N,) values >= 0.

    Raises:
        TrainingError: shapes do not fit.
    """
    check_matrix(logits, "logits")
    if tuple(targets.shape) != (logits.shape[0],):
        raise TrainingError(
            f"targets of {tuple(targets.shape)} do not fit logits of {tuple(logits.shape)}"
        )
    return torch.nn.functional.cross_entropy(wide(logits), targets, reduction="none")


def hidden_error(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Squared distance of hidden states, relative to the teacher's size.

    ``|s - t|^2 / |t|^2``. Relative, because a decoder's hidden states grow by orders of magnitude
    from layer to layer and on its first token: a plain mean square would learn these alone.

    Source: the MSE of hidden states of TinyBERT, arXiv 1909.10351, equation 8, normalised.

    Args:
        student: (N, D).
        teacher: (N, D).

    Returns:
        (N,) values >= 0.

    Raises:
        TrainingError: shapes differ.
    """
    check_matrix(student, "student")
    check_same(student, teacher, "student", "teacher")
    state, goal = wide(student), wide(teacher.detach())
    tiny = torch.finfo(goal.dtype).tiny
    return (state - goal).square().sum(-1) / goal.square().sum(-1).clamp_min(tiny)


def hidden_angle(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """``1 - cos(s, t)`` of hidden states: their direction alone.

    Source: the cosine loss of DistilBERT, arXiv 1910.01108, section 3.

    Args:
        student: (N, D).
        teacher: (N, D).

    Returns:
        (N,) values from 0 to 2.

    Raises:
        TrainingError: shapes differ.
    """
    check_matrix(student, "student")
    check_same(student, teacher, "student", "teacher")
    return 1.0 - torch.nn.functional.cosine_similarity(
        wide(student), wide(teacher.detach()), dim=-1
    )
