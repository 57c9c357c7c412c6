"""The algebra of the losses, against naive float64 sums."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from fakes.distributions import gradient, logit_pairs, naive_kl, softmax, temperatures
from hypothesis import given, settings

from ollama_bridge.errors import TrainingError
from ollama_bridge.train.losses import cross_entropy, hidden_angle, hidden_error, kl_forward


@settings(max_examples=40, deadline=None)
@given(pair=logit_pairs(), temperature=temperatures)
def test_kl_is_the_naive_sum(pair: tuple[torch.Tensor, torch.Tensor], temperature: float) -> None:
    """Value and gradient equal the definition: T^2 sum p log(p/q) and T (q - p)."""
    student, teacher = pair
    value = kl_forward(student, teacher, temperature=temperature)
    assert value.tolist() == pytest.approx(naive_kl(student, teacher, temperature), abs=1e-9)
    assert (value >= -1e-12).all()
    found = gradient(lambda s: kl_forward(s, teacher, temperature=temperature), student)
    q, p = (
        torch.tensor([softmax(row, temperature) for row in logits.tolist()], dtype=torch.float64)
        for logits in pair
    )
    assert torch.allclose(found, temperature * (q - p), atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(pair=logit_pairs(), temperature=temperatures)
def test_kl_of_a_distribution_with_itself_is_zero(
    pair: tuple[torch.Tensor, torch.Tensor], temperature: float
) -> None:
    """KL(p, p) = 0 at every temperature."""
    logits = pair[0]
    assert kl_forward(logits, logits, temperature=temperature).abs().max() < 1e-12


@settings(max_examples=40, deadline=None)
@given(pair=logit_pairs())
def test_cross_entropy_is_minus_the_log_probability(
    pair: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """The hard loss is -log softmax at the target, and the KL to a one-hot teacher."""
    logits = pair[0]
    targets = pair[1].argmax(-1)
    expected = [
        -math.log(softmax(row, 1.0)[target])
        for row, target in zip(logits.tolist(), targets.tolist(), strict=True)
    ]
    assert cross_entropy(logits, targets).tolist() == pytest.approx(expected, abs=1e-9)
    one_hot = torch.full_like(logits, -math.inf).scatter(-1, targets[:, None], 0.0)
    assert torch.allclose(kl_forward(logits, one_hot), cross_entropy(logits, targets), atol=1e-9)


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


def test_half_precision_is_computed_in_float32() -> None:
    """bfloat16 logits are widened before any logarithm."""
    logits = torch.randn(3, 7, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert kl_forward(logits, logits.float()).dtype == torch.float32
    assert cross_entropy(logits, torch.zeros(3, dtype=torch.int64)).dtype == torch.float32


@pytest.mark.parametrize(
    "call",
    [
        lambda: kl_forward(torch.zeros(2, 3), torch.zeros(2, 4)),
        lambda: kl_forward(torch.zeros(3), torch.zeros(3)),
        lambda: kl_forward(torch.zeros(2, 3), torch.zeros(2, 3), temperature=0.0),
        lambda: cross_entropy(torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64)),
        lambda: hidden_error(torch.zeros(2, 3), torch.zeros(2, 4)),
    ],
)
def test_wrong_shapes_are_refused(call: Callable[[], torch.Tensor]) -> None:
    """Shapes that do not fit are named instead of broadcast."""
    with pytest.raises(TrainingError):
        call()
