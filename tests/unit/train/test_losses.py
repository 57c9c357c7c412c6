"""The algebra of the losses, against naive float64 sums."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_bridge.errors import TrainingError
from ollama_bridge.labels import SoftTargets, top_k_with_residual
from ollama_bridge.train.losses import (
    cross_entropy,
    hidden_angle,
    hidden_error,
    kl_forward,
    kl_top_k,
)

temperatures = st.sampled_from([0.5, 1.0, 2.0, 4.0])


@st.composite
def logit_pairs(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Student's and teacher's logits, (N, V) float64, flat or sharp."""
    rows, width = draw(st.integers(1, 4)), draw(st.integers(2, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    scale = draw(st.sampled_from([0.1, 1.0, 10.0]))
    pair = scale * torch.randn(2, rows, width, generator=generator, dtype=torch.float64)
    return pair[0], pair[1]


def naive_kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> list[float]:
    """T^2 * sum p log(p / q), written out with Python floats."""
    values = []
    for s_row, t_row in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = softmax(s_row, temperature), softmax(t_row, temperature)
        terms = [a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0]
        values.append(temperature**2 * math.fsum(terms))
    return values


def softmax(row: list[float], temperature: float) -> list[float]:
    largest = max(row)
    powers = [math.exp((value - largest) / temperature) for value in row]
    return [power / math.fsum(powers) for power in powers]


def gradient(loss: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor) -> torch.Tensor:
    leaf = at.clone().requires_grad_()
    loss(leaf).sum().backward()
    assert leaf.grad is not None
    return leaf.grad


def cut(teacher: torch.Tensor, top_k: int) -> SoftTargets:
    """As the store keeps it, but in float64."""
    logprobs = torch.log_softmax(teacher, -1)
    kept, ids = logprobs.topk(top_k, dim=-1)
    return SoftTargets(ids, kept, logprobs.scatter(-1, ids, -math.inf).logsumexp(-1))


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
@given(pair=logit_pairs(), temperature=temperatures, top_k=st.integers(1, 12))
def test_kl_of_a_distribution_with_itself_is_zero(
    pair: tuple[torch.Tensor, torch.Tensor], temperature: float, top_k: int
) -> None:
    """KL(p, p) = 0 with a zero gradient: full or cut, at every temperature."""
    logits = pair[0]
    soft = cut(logits, min(top_k, logits.shape[1]))

    def sparse(student: torch.Tensor) -> torch.Tensor:
        return kl_top_k(student, soft.ids, soft.logprobs, soft.residual, temperature=temperature)

    assert kl_forward(logits, logits, temperature=temperature).abs().max() < 1e-12
    assert sparse(logits).abs().max() < 1e-9
    assert gradient(sparse, logits).abs().max() < 1e-9


@settings(max_examples=40, deadline=None)
@given(pair=logit_pairs(), temperature=temperatures)
def test_all_tokens_kept_is_the_full_kl(
    pair: tuple[torch.Tensor, torch.Tensor], temperature: float
) -> None:
    """With k = V the cut loss equals the full one in value and gradient, at every temperature."""
    student, teacher = pair
    soft = cut(teacher, teacher.shape[1])

    def sparse(logits: torch.Tensor) -> torch.Tensor:
        return kl_top_k(logits, soft.ids, soft.logprobs, soft.residual, temperature=temperature)

    def full(logits: torch.Tensor) -> torch.Tensor:
        return kl_forward(logits, teacher, temperature=temperature)

    assert torch.allclose(sparse(student), full(student), atol=1e-9)
    assert torch.allclose(gradient(sparse, student), gradient(full, student), atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(pair=logit_pairs(), top_k=st.integers(1, 11), temperature=temperatures)
def test_cut_kl_is_the_naive_sum_over_classes(
    pair: tuple[torch.Tensor, torch.Tensor], top_k: int, temperature: float
) -> None:
    """Kept tokens and one class for the rest: the definition, and at T = 1 a lower bound."""
    student, teacher = pair
    top_k = min(top_k, student.shape[1] - 1)
    soft = cut(teacher, top_k)
    found = kl_top_k(student, soft.ids, soft.logprobs, soft.residual, temperature=temperature)
    for row, ids in enumerate(soft.ids.tolist()):
        classes = []
        for logits in (student, teacher):
            shares = softmax(logits[row].tolist(), 1.0)
            rest = math.fsum(share for id_, share in enumerate(shares) if id_ not in ids)
            classes.append([math.log(share) for share in (*(shares[i] for i in ids), rest)])
        ours, theirs = (torch.tensor([row_], dtype=torch.float64) for row_ in classes)
        assert found[row].item() == pytest.approx(naive_kl(ours, theirs, temperature)[0], abs=1e-7)
    assert (found >= -1e-12).all()
    if temperature == 1.0:
        assert (found <= kl_forward(student, teacher) + 1e-9).all()


def test_cut_kl_keeps_its_gradient_where_the_student_is_sure() -> None:
    """A rest of 1e-13 still has a finite, right gradient: nothing cancels in float32."""
    student = torch.tensor([[30.0, 0.0, 0.0, -1.0]])
    soft = top_k_with_residual(torch.tensor([[2.0, 1.0, 0.0, 0.0]]), top_k=1)
    found = gradient(
        lambda logits: kl_top_k(logits, soft.ids, soft.logprobs, soft.residual), student
    )
    share = float(torch.softmax(torch.tensor([2.0, 1.0, 0.0, 0.0]), 0)[0])
    assert torch.isfinite(found).all()
    assert float(found[0, 0]) == pytest.approx(1 - share, rel=1e-5)
    assert float(found.sum()) == pytest.approx(0.0, abs=1e-6)


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
        lambda: kl_top_k(
            torch.zeros(2, 3), torch.zeros(1, 2).long(), torch.zeros(1, 2), torch.zeros(1)
        ),
        lambda: kl_top_k(
            torch.zeros(2, 3), torch.zeros(2, 2).long(), torch.zeros(2, 2), torch.zeros(2, 1)
        ),
        lambda: kl_top_k(
            torch.zeros(2, 3), torch.zeros(2, 4).long(), torch.zeros(2, 4), torch.zeros(2)
        ),
    ],
)
def test_wrong_shapes_are_refused(call: Callable[[], torch.Tensor]) -> None:
    """Shapes that do not fit are named instead of broadcast."""
    with pytest.raises(TrainingError):
        call()
