"""Losses between hidden states: pure functions, one value a position.

Letters: N positions, D width; states of different widths are compared behind a learned projection
(``projections``). Everything is computed in float32 (float64 stays float64). Gradients flow into
the student's argument only.
"""

from __future__ import annotations

import torch

from ollama_bridge.train.losses.loss_terms import check_matrix, check_same, wide


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
