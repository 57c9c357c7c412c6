"""The algebra of the losses between hidden states."""

from __future__ import annotations

import math

import pytest
import torch
from fakes.distributions import logit_pairs
from hypothesis import given, settings

from ollama_bridge.errors import TrainingError
from ollama_bridge.train.hidden_losses import hidden_angle, hidden_error


@settings(max_examples=40, deadline=None)
@given(pair=logit_pairs())
def test_hidden_losses_are_zero_on_equal_states(
    pair: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """Equal states cost nothing, size alone no angle, and nothing is negative."""
    student, teacher = pair
    assert hidden_error(teacher, teacher).abs().max() == 0
    assert hidden_angle(3 * teacher, teacher).abs().max() < 1e-9
    assert (hidden_error(student, teacher) >= 0).all()
    naive = [
        math.fsum((s - t) ** 2 for s, t in zip(a, b, strict=True)) / math.fsum(t * t for t in b)
        for a, b in zip(student.tolist(), teacher.tolist(), strict=True)
    ]
    assert hidden_error(student, teacher).tolist() == pytest.approx(naive)


@pytest.mark.parametrize("loss", [hidden_error, hidden_angle])
def test_states_of_other_widths_are_refused(loss: object) -> None:
    """Shapes that do not fit are named instead of broadcast."""
    with pytest.raises(TrainingError):
        loss(torch.zeros(2, 3), torch.zeros(2, 4))  # type: ignore[operator]
