"""The algebra of the losses between hidden states."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from fakes.distributions import gradient, logit_pairs
from hypothesis import given, settings

from ollama_bridge.errors import TrainingError
from ollama_bridge.train.losses.hidden import hidden_angle, hidden_error

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Naive = Callable[[list[float], list[float]], float]


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


def naive_error(student: list[float], teacher: list[float]) -> float:
    """|s - t|^2 / |t|^2 of one position, written out with Python floats."""
    squares = math.fsum((s - t) ** 2 for s, t in zip(student, teacher, strict=True))
    return squares / math.fsum(t * t for t in teacher)


def naive_angle(student: list[float], teacher: list[float]) -> float:
    """1 - s t / (|s| |t|) of one position, written out with Python floats."""
    product = math.fsum(s * t for s, t in zip(student, teacher, strict=True))
    sizes = math.fsum(s * s for s in student) * math.fsum(t * t for t in teacher)
    return 1 - product / math.sqrt(sizes)


def slope(naive: Naive, student: list[float], teacher: list[float], place: int) -> float:
    """By the change of one number of the student's, to either side."""
    step = 1e-6 * math.sqrt(math.fsum(s * s for s in student))
    up, down = (
        naive([s + moved * (i == place) for i, s in enumerate(student)], teacher)
        for moved in (step, -step)
    )
    return (up - down) / (2 * step)


@pytest.mark.parametrize(
    ("loss", "naive"), [(hidden_error, naive_error), (hidden_angle, naive_angle)]
)
@settings(max_examples=40, deadline=None)
@given(pair=logit_pairs())
def test_values_and_gradients_are_those_of_the_definition(
    loss: Loss, naive: Naive, pair: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """Of each position for itself; the teacher is not moved."""
    student, teacher = pair
    rows = list(zip(student.tolist(), teacher.tolist(), strict=True))
    values = [naive(*row) for row in rows]
    assert loss(student, teacher).tolist() == pytest.approx(values, rel=1e-9, abs=1e-12)
    found = gradient(lambda moved: loss(moved, teacher), student)
    for row, slopes in zip(rows, found.tolist(), strict=True):
        expected = [slope(naive, *row, place) for place in range(len(slopes))]
        largest = max(abs(one) for one in expected)
        assert slopes == pytest.approx(expected, rel=1e-5, abs=1e-5 * largest + 1e-8)
    goal = teacher.clone().requires_grad_()
    assert not loss(student, goal).requires_grad


@pytest.mark.parametrize("loss", [hidden_error, hidden_angle])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e3])
def test_float32_is_within_a_hundred_thousandth_of_float64(loss: Loss, scale: float) -> None:
    """Value and gradient, of states as small and as large as those of a decoder's layers."""
    generator = torch.Generator().manual_seed(0)
    pair = scale * torch.randn(2, 16, 576, generator=generator, dtype=torch.float64)
    student, teacher = pair[0] + pair[1], pair[1]
    found = loss(student.float(), teacher.float())
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), loss(student, teacher), rtol=1e-5)
    exact, rounded = (
        gradient(lambda s: loss(s, teacher.to(s.dtype)), states).double()
        for states in (student, student.float())
    )
    assert float((rounded - exact).norm() / exact.norm()) < 1e-5


@pytest.mark.parametrize("loss", [hidden_error, hidden_angle])
def test_states_of_other_widths_are_refused(loss: object) -> None:
    """Shapes that do not fit are named instead of broadcast."""
    with pytest.raises(TrainingError):
        loss(torch.zeros(2, 3), torch.zeros(2, 4))  # type: ignore[operator]
