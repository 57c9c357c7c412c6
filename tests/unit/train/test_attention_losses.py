"""The algebra of the losses between attention maps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fakes.distributions import gradient
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_bridge.errors import TrainingError
from ollama_bridge.train.losses.attention import attention_error, attention_kl, match_heads

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
LOSSES = (attention_kl, attention_error)


def maps(seed: int, *, heads: int, rows: int = 3, keys: int = 5) -> torch.Tensor:
    """Causal attention maps (N, H, K), float64: row i sees the first i + 1 keys."""
    generator = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(rows, heads, keys, generator=generator, dtype=torch.float64)
    hidden = torch.arange(keys)[None, None] > torch.arange(rows)[:, None, None]
    return torch.softmax(scores.masked_fill(hidden, float("-inf")), -1)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), heads=st.integers(1, 4))
def test_values_are_those_of_the_definition(seed: int, heads: int) -> None:
    """torch's kl_div and squared differences, a mean over heads, on what may be seen."""
    student, teacher = maps(seed, heads=heads), maps(seed + 1, heads=heads)
    kl, error = attention_kl(student, teacher), attention_error(student, teacher)
    for row in range(3):
        b, a = (value[row, :, : row + 1] for value in (student, teacher))
        expected = torch.nn.functional.kl_div(b.log(), a, reduction="sum") / heads
        assert float(kl[row]) == pytest.approx(float(expected), abs=1e-9)
        assert float(error[row]) == pytest.approx(float(((a - b) ** 2).sum()) / heads, abs=1e-9)
    assert (kl >= -1e-12).all()
    assert attention_kl(teacher, teacher).abs().max() < 1e-12
    assert attention_error(teacher, teacher).abs().max() == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_hidden_and_rounded_weights_have_finite_gradients(loss: Loss) -> None:
    """What must not be seen, and what was rounded to 0, is no infinity; nor are sums beside 1."""
    student = maps(0, heads=2).bfloat16()
    student[2, 0, 0] = 0.0
    student.requires_grad_()
    value = loss(student, maps(1, heads=2).bfloat16())
    assert value.dtype == torch.float32
    assert (value >= 0).all()
    value.sum().backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_float32_is_within_a_hundred_thousandth_of_float64(loss: Loss) -> None:
    """Value and gradient, of maps over some hundred tokens, with heads of other numbers."""
    student, teacher = (
        maps(seed, heads=heads, rows=64, keys=256) for seed, heads in enumerate((2, 4))
    )
    found = loss(student.float(), teacher.float())
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), loss(student, teacher), rtol=1e-5, atol=1e-7)
    exact, rounded = (
        gradient(lambda s: loss(s, teacher.to(s.dtype)), value).double()
        for value in (student, student.float())
    )
    assert float((rounded - exact).norm() / exact.norm()) < 1e-5


@pytest.mark.parametrize("loss", LOSSES)
def test_the_teacher_is_not_moved(loss: Loss) -> None:
    """Gradients flow into the student's maps only."""
    student, teacher = maps(0, heads=2), maps(1, heads=2).requires_grad_()
    assert not loss(student, teacher).requires_grad
    loss(student.requires_grad_(), teacher).sum().backward()
    assert student.grad is not None
    assert student.grad.abs().max() > 0
    assert teacher.grad is None


def test_heads_are_matched() -> None:
    """Equal numbers one by one, multiples in neighbouring groups, others all together."""
    two, four, three = (maps(seed, heads=heads) for seed, heads in enumerate((2, 4, 3)))
    assert match_heads(two, two)[0] is two
    mine, theirs = match_heads(two, four)
    assert mine is two
    assert torch.allclose(theirs[:, 1], (four[:, 2] + four[:, 3]) / 2)
    assert torch.equal(match_heads(four, two)[0], theirs)
    averaged = match_heads(two, three)
    assert [value.shape[1] for value in averaged] == [1, 1]
    assert torch.allclose(averaged[1][:, 0], three.mean(1))
    assert torch.allclose(averaged[1].sum(-1), torch.ones(3, 1, dtype=torch.float64))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", [(3, 2), (2, 2, 5), (3, 2, 4)])
def test_maps_of_other_positions_are_refused(loss: Loss, shape: tuple[int, ...]) -> None:
    """Shapes that do not fit are named instead of broadcast."""
    with pytest.raises(TrainingError):
        loss(maps(0, heads=2), torch.ones(shape))
