"""The losses against a part of the teacher's distribution, beside the losses against all of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from fakes.distributions import gradient, logit_pairs, naive_kl, softmax, temperatures
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_bridge.errors import TrainingError
from ollama_bridge.labels import SoftTargets, top_k_with_residual
from ollama_bridge.train.losses import kl_forward
from ollama_bridge.train.sparse_losses import kl_top_k


def cut(teacher: torch.Tensor, top_k: int) -> SoftTargets:
    """As the store keeps it, but in float64."""
    logprobs = torch.log_softmax(teacher, -1)
    kept, ids = logprobs.topk(top_k, dim=-1)
    return SoftTargets(ids, kept, logprobs.scatter(-1, ids, -math.inf).logsumexp(-1))


@settings(max_examples=40, deadline=None)
@given(pair=logit_pairs(), temperature=temperatures, top_k=st.integers(1, 12))
def test_kl_of_a_distribution_with_itself_is_zero(
    pair: tuple[torch.Tensor, torch.Tensor], temperature: float, top_k: int
) -> None:
    """KL(p, p) = 0 with a zero gradient, at every temperature."""
    logits = pair[0]
    soft = cut(logits, min(top_k, logits.shape[1]))

    def sparse(student: torch.Tensor) -> torch.Tensor:
        return kl_top_k(student, soft.ids, soft.logprobs, soft.residual, temperature=temperature)

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


@pytest.mark.parametrize(
    "call",
    [
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
