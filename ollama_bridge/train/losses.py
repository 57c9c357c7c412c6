"""Losses of distillation: pure functions, one value a position, in nats.

Letters: N positions, V vocabulary, k tokens kept of the teacher, D width. Everything is computed
in float32 (float64 stays float64). Gradients flow into the student's argument only.
"""

from __future__ import annotations

import torch

from ollama_bridge.errors import TrainingError


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
    _check_matrix(student_logits, "student_logits")
    _check_same(student_logits, teacher_logits, "student_logits", "teacher_logits")
    _check_temperature(temperature)
    q = torch.log_softmax(_wide(student_logits) / temperature, dim=-1)
    p = torch.log_softmax(_wide(teacher_logits.detach()) / temperature, dim=-1)
    return temperature**2 * _kl(p, q)


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
    :func:`kl_forward`, times T^2. So the student is told how much mass the rest has, but not how
    to share it out; nothing is renormalised away. At T = 1 this is a lower bound of the full
    divergence (summing classes loses information, never adds it). At T != 1 the rest is tempered
    as one class, which is not what tempering each of its tokens would give: that is unknown from
    a store; the value is still 0 if the student equals the teacher, and still >= 0. With k = V the
    residual is empty (-inf) and the value equals :func:`kl_forward` at every T.

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
    _check_matrix(student_logits, "student_logits")
    _check_matrix(teacher_ids, "teacher_ids")
    _check_same(teacher_ids, teacher_logprobs, "teacher_ids", "teacher_logprobs")
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
    _check_temperature(temperature)
    logits = _wide(student_logits)
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
    return temperature**2 * _kl(p, q)


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
    _check_matrix(logits, "logits")
    if tuple(targets.shape) != (logits.shape[0],):
        raise TrainingError(
            f"targets of {tuple(targets.shape)} do not fit logits of {tuple(logits.shape)}"
        )
    return torch.nn.functional.cross_entropy(_wide(logits), targets, reduction="none")


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
    _check_matrix(student, "student")
    _check_same(student, teacher, "student", "teacher")
    wide, goal = _wide(student), _wide(teacher.detach())
    tiny = torch.finfo(goal.dtype).tiny
    return (wide - goal).square().sum(-1) / goal.square().sum(-1).clamp_min(tiny)


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
    _check_matrix(student, "student")
    _check_same(student, teacher, "student", "teacher")
    return 1.0 - torch.nn.functional.cosine_similarity(
        _wide(student), _wide(teacher.detach()), dim=-1
    )


def _kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """``sum exp(p) * (p - q)`` of log-probabilities, where a class without mass counts nothing."""
    possible = p > float("-inf")
    difference = torch.where(possible, p - q, 0.0)
    return (p.exp() * difference).sum(-1)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _check_matrix(tensor: torch.Tensor, name: str) -> None:
    if tensor.dim() != 2:
        raise TrainingError(f"{name} must have two dimensions, not shape {tuple(tensor.shape)}")


def _check_same(left: torch.Tensor, right: torch.Tensor, left_name: str, right_name: str) -> None:
    if left.shape != right.shape:
        raise TrainingError(
            f"{left_name} has shape {tuple(left.shape)}, {right_name} {tuple(right.shape)}"
        )


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise TrainingError(f"temperature must be positive, not {temperature}")
