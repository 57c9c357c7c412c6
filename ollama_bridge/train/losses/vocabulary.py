"""Losses over a vocabulary: pure functions, one value a position, in nats.

Letters: N positions, V vocabulary; p is the teacher's distribution and q the student's, both at
temperature T. Everything is computed in float32 (float64 stays float64). Gradients flow into the
student's argument only. At a temperature a divergence is multiplied by T^2, a distance by T: so
the size of the gradient does not depend on T. Where only a part of the teacher's distribution is
known, see ``sparse`` and ``split_logits``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ollama_bridge.errors import TrainingError
from ollama_bridge.train.losses.loss_terms import (
    check_matrix,
    check_same,
    check_temperature,
    kl_of_logprobs,
    log_softmax,
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
    _check_pair(student_logits, teacher_logits, temperature)
    value: torch.Tensor = _ForwardKL.apply(
        wide(student_logits), wide(teacher_logits.detach()), temperature
    )
    return value


def kl_reverse(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, *, temperature: float = 1.0
) -> torch.Tensor:
    """Reverse Kullback-Leibler divergence: the student's mass where the teacher has none costs.

    ``T^2 * sum_v q_v * (log q_v - log p_v)``. Infinite where the teacher excludes a token (a logit
    of -inf) that the student does not.

    Source: Gu et al. 2023 (MiniLLM), arXiv 2306.08543, equation 1.

    Args:
        student_logits: (N, V), unnormalised.
        teacher_logits: (N, V), unnormalised.
        temperature: T > 0.

    Returns:
        (N,) divergences >= 0.

    Raises:
        TrainingError: shapes differ, or T is not positive.
    """
    q, p = _tempered(student_logits, teacher_logits, temperature)
    return temperature**2 * kl_of_logprobs(q, p)


def kl_skewed_forward(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    *,
    alpha: float = 0.1,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Forward KL divergence to a mixture that holds some of the teacher.

    ``T^2 * KL(p || alpha * p + (1 - alpha) * q)``: its gradient stays bounded where the student
    gives a likely token next to nothing. alpha = 0 is :func:`kl_forward`.

    Source: Ko et al. 2024 (DistiLLM), arXiv 2402.03898, equation 3.

    Args:
        student_logits: (N, V), unnormalised.
        teacher_logits: (N, V), unnormalised.
        alpha: The teacher's share of the mixture, 0 <= alpha < 1.
        temperature: T > 0.

    Returns:
        (N,) divergences from 0 to ``-T^2 * log(alpha)``.

    Raises:
        TrainingError: shapes differ, or T or alpha is out of its range.
    """
    _check_skew(alpha)
    q, p = _tempered(student_logits, teacher_logits, temperature)
    return temperature**2 * kl_of_logprobs(p, _mixture(p, q, alpha))


def kl_skewed_reverse(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    *,
    alpha: float = 0.1,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Reverse KL divergence to a mixture that holds some of the student.

    ``T^2 * KL(q || (1 - alpha) * p + alpha * q)``: finite also where the teacher excludes a token.
    alpha = 0 is :func:`kl_reverse`.

    Source: Ko et al. 2024 (DistiLLM), arXiv 2402.03898, section 3.1.

    Args:
        student_logits: (N, V), unnormalised.
        teacher_logits: (N, V), unnormalised.
        alpha: The student's share of the mixture, 0 <= alpha < 1.
        temperature: T > 0.

    Returns:
        (N,) divergences from 0 to ``-T^2 * log(alpha)``.

    Raises:
        TrainingError: shapes differ, or T or alpha is out of its range.
    """
    _check_skew(alpha)
    q, p = _tempered(student_logits, teacher_logits, temperature)
    return temperature**2 * kl_of_logprobs(q, _mixture(q, p, alpha))


def jensen_shannon(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Generalised Jensen-Shannon divergence.

    ``T^2 * (beta * KL(p || m) + (1 - beta) * KL(q || m))`` with ``m = beta * p + (1 - beta) * q``.
    Symmetric at beta = 0.5. At both ends it is 0 for any two distributions, so the ends are
    refused; divided by beta it goes to the forward KL as beta -> 0, divided by 1 - beta to the
    reverse KL as beta -> 1. (Other implementations jump to these at the ends.)

    Source: Agarwal et al. 2023 (GKD), arXiv 2306.13649, equation 1.

    Args:
        student_logits: (N, V), unnormalised.
        teacher_logits: (N, V), unnormalised.
        beta: The teacher's share of the mixture, 0 < beta < 1.
        temperature: T > 0.

    Returns:
        (N,) divergences from 0 to T^2 times the entropy of (beta, 1 - beta), at most log 2.

    Raises:
        TrainingError: shapes differ, or T or beta is out of its range.
    """
    if not 0 < beta < 1:
        raise TrainingError(
            f"beta must lie between 0 and 1, not at {beta}",
            hint="the limits are kl_forward (beta -> 0) and kl_reverse (beta -> 1)",
        )
    q, p = _tempered(student_logits, teacher_logits, temperature)
    middle = _mixture(p, q, beta)
    both = beta * kl_of_logprobs(p, middle) + (1 - beta) * kl_of_logprobs(q, middle)
    return temperature**2 * both


def total_variation(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, *, temperature: float = 1.0
) -> torch.Tensor:
    """Total variation distance: the mass that would have to be moved.

    ``T / 2 * sum_v |p_v - q_v|``.

    Source: Wen et al. 2023, arXiv 2307.15190, section 3.

    Args:
        student_logits: (N, V), unnormalised.
        teacher_logits: (N, V), unnormalised.
        temperature: T > 0.

    Returns:
        (N,) distances from 0 to T.

    Raises:
        TrainingError: shapes differ, or T is not positive.
    """
    q, p = _tempered(student_logits, teacher_logits, temperature)
    return temperature * 0.5 * (p.exp() - q.exp()).abs().sum(-1)


def universal(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, *, temperature: float = 1.0
) -> torch.Tensor:
    """Universal logit distillation: how far two distributions differ, whatever their tokens are.

    ``T * sum_i |p_(i) - q_(i)|``, both sorted from the likeliest down, the shorter one filled up
    with zeros: the Wasserstein distance where moving mass costs the same between any two tokens.
    It compares shapes alone: two sure distributions are equal whatever they are sure of, so it
    belongs beside hard labels.

    ``|p - q|`` has a kink at 0, where the gradient changes its sign. Where both sorted curves run
    so close that rounding decides which is above, it decides the gradient, too: between two nearly
    equal distributions over 49,152 tokens those of float32 and float64 are a hundredth of their
    norm apart (a few signs of hundred thousands). Either is a subgradient there.

    Source: Boizard et al. 2024 (ULD), arXiv 2402.12030, section 3.2.

    Args:
        student_logits: (N, V), unnormalised.
        teacher_logits: (N, another V), unnormalised, at the positions that belong to the student's.
        temperature: T > 0.

    Returns:
        (N,) distances from 0 to 2 T.

    Raises:
        TrainingError: the numbers of positions differ, or T is not positive.
    """
    check_matrix(student_logits, "student_logits")
    check_matrix(teacher_logits, "teacher_logits")
    if student_logits.shape[0] != teacher_logits.shape[0]:
        raise TrainingError(
            f"{student_logits.shape[0]} positions of the student, {teacher_logits.shape[0]} of the "
            "teacher"
        )
    check_temperature(temperature)
    q = torch.softmax(wide(student_logits) / temperature, dim=-1)
    p = torch.softmax(wide(teacher_logits.detach()) / temperature, dim=-1)
    q, p = (share.sort(dim=-1, descending=True).values for share in (q, p))
    common = min(q.shape[1], p.shape[1])
    moved = (q[:, :common] - p[:, :common]).abs().sum(-1)
    return temperature * (moved + q[:, common:].sum(-1) + p[:, common:].sum(-1))


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy on hard labels.

    ``-log q_y = log sum_v exp(z_v) - z_y`` with the logits z, ``q = softmax(z)`` and the target y.
    At temperature 1, whatever that of the other losses is.

    Source: the second objective of Hinton et al. 2015, arXiv 1503.02531, section 2.

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


class _ForwardKL(torch.autograd.Function):
    """Its gradient is ``T * (q - p)``: one tensor to keep, where autograd would keep five."""

    @staticmethod
    def forward(
        ctx: Any, student: torch.Tensor, teacher: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        q, p = log_softmax(student, temperature), log_softmax(teacher, temperature)
        value = temperature**2 * kl_of_logprobs(p, q)
        if ctx.needs_input_grad[0]:
            ctx.slope = q.exp_().sub_(p.exp_()).mul_(temperature)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        # In place: nothing else knows this tensor, and a second pass would fail without it.
        slope, ctx.slope = ctx.slope, None
        return slope.mul_(scale.unsqueeze(-1)), None, None


def _tempered(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The logarithms of q and p at a temperature."""
    _check_pair(student_logits, teacher_logits, temperature)
    q = log_softmax(wide(student_logits), temperature)
    return q, log_softmax(wide(teacher_logits.detach()), temperature)


def _check_pair(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float
) -> None:
    check_matrix(student_logits, "student_logits")
    check_same(student_logits, teacher_logits, "student_logits", "teacher_logits")
    check_temperature(temperature)


def _mixture(first: torch.Tensor, second: torch.Tensor, share: float) -> torch.Tensor:
    """The logarithm of ``share * exp(first) + (1 - share) * exp(second)``."""
    if share == 0:
        return second
    return torch.logaddexp(first + math.log(share), second + math.log1p(-share))


def _check_skew(alpha: float) -> None:
    if not 0 <= alpha < 1:
        raise TrainingError(f"alpha must be at least 0 and below 1, not {alpha}")
