"""The losses against a part of the teacher's distribution, beside the losses against all of it."""

from __future__ import annotations

import math

import pytest
import torch
from fakes.distributions import (
    cut,
    gradient,
    logit_pairs,
    naive_kl,
    softmax,
    stored_kl,
    temperatures,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_bridge.errors import TrainingError
from ollama_bridge.label_store.labels import (
    NO_MASS_LOGPROB,
    SampledTargets,
    SoftTargets,
    sample_tokens,
    top_k_with_residual,
)
from ollama_bridge.recipe.losses import KLForwardLoss, KLReverseLoss
from ollama_bridge.teacher.named_targets import soft_targets
from ollama_bridge.train.losses.signals import StoredSignal
from ollama_bridge.train.losses.sparse import kl_sampled
from ollama_bridge.train.losses.vocabulary import cross_entropy, kl_forward
from ollama_bridge.train.losses.vocabulary_terms import vocabulary_loss


@settings(max_examples=40, deadline=None)
@given(pair=logit_pairs(), temperature=temperatures, top_k=st.integers(1, 12))
def test_kl_of_a_distribution_with_itself_is_zero(
    pair: tuple[torch.Tensor, torch.Tensor], temperature: float, top_k: int
) -> None:
    """KL(p, p) = 0 with a zero gradient, at every temperature."""
    logits = pair[0]
    soft = cut(logits, min(top_k, logits.shape[1]))

    def sparse(student: torch.Tensor) -> torch.Tensor:
        return stored_kl(student, soft, temperature)

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
        return stored_kl(logits, soft, temperature)

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
    found = stored_kl(student, soft, temperature)
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


@settings(max_examples=60, deadline=None)
@given(
    pair=logit_pairs(),
    temperature=temperatures,
    top_k=st.integers(1, 12),
    loss=st.sampled_from([KLForwardLoss, KLReverseLoss]),
)
def test_a_certain_label_is_the_hard_label(
    pair: tuple[torch.Tensor, torch.Tensor],
    temperature: float,
    top_k: int,
    loss: type[KLForwardLoss | KLReverseLoss],
) -> None:
    """Cross-entropy in value and gradient at every temperature, beside rows that are tempered."""
    student, teacher = pair
    top_k, width = min(top_k, student.shape[1]), student.shape[1]
    labels = teacher.argmin(-1)
    certain = soft_targets([None] * len(labels), labels.tolist(), top_k=top_k, vocab_size=width)
    known = cut(teacher, top_k)
    both = SoftTargets(
        torch.cat([certain.ids, known.ids]),
        torch.cat([certain.logprobs.double(), known.logprobs]),
        torch.cat([certain.residual.double(), known.residual]),
    )
    twice = torch.cat([labels, labels])
    section = loss(temperature=temperature)

    def soft(logits: torch.Tensor) -> torch.Tensor:
        return vocabulary_loss(section, StoredSignal(both, twice).beside(logits, slice(None)))

    def alone(logits: torch.Tensor) -> torch.Tensor:
        return vocabulary_loss(section, StoredSignal(known, labels).beside(logits, slice(None)))

    def hard(logits: torch.Tensor) -> torch.Tensor:
        return cross_entropy(logits, labels)

    found, slope = soft(student.repeat(2, 1)), gradient(soft, student.repeat(2, 1))
    expected = torch.cat([hard(student), alone(student)])
    assert torch.allclose(found, expected, atol=1e-9)
    slopes = torch.cat([gradient(hard, student), gradient(alone, student)])
    assert torch.allclose(slope, slopes, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(pair=logit_pairs(), temperature=temperatures)
def test_what_fills_up_a_list_changes_nothing(
    pair: tuple[torch.Tensor, torch.Tensor], temperature: float
) -> None:
    """Two tokens are named, two fill up: value and gradient are those of a list of two."""
    student, teacher = (torch.cat([one, one + 0.5, one - 0.5], -1) for one in pair)
    short = cut(teacher, 2)
    free = torch.ones_like(teacher).scatter(-1, short.ids, 0).topk(2, dim=-1).indices
    nothing = torch.full_like(short.logprobs, NO_MASS_LOGPROB)
    filled = SoftTargets(
        torch.cat([short.ids, free], -1), torch.cat([short.logprobs, nothing], -1), short.residual
    )
    values = [stored_kl(student, soft, temperature) for soft in (filled, short)]
    assert torch.allclose(*values, atol=1e-9)
    slopes = [
        gradient(lambda x, soft=soft: stored_kl(x, soft, temperature), student)
        for soft in (filled, short)
    ]
    assert torch.allclose(*slopes, atol=1e-9)


def test_cut_kl_keeps_its_gradient_where_the_student_is_sure() -> None:
    """A rest of 1e-13 still has a finite, right gradient: nothing cancels in float32."""
    student = torch.tensor([[30.0, 0.0, 0.0, -1.0]])
    soft = top_k_with_residual(torch.tensor([[2.0, 1.0, 0.0, 0.0]]), top_k=1)
    found = gradient(lambda logits: stored_kl(logits, soft), student)
    share = float(torch.softmax(torch.tensor([2.0, 1.0, 0.0, 0.0]), 0)[0])
    assert torch.isfinite(found).all()
    assert float(found[0, 0]) == pytest.approx(1 - share, rel=1e-5)
    assert float(found.sum()) == pytest.approx(0.0, abs=1e-6)


def drawn(teacher: torch.Tensor, *, draws: int, offsets: torch.Tensor) -> SampledTargets:
    """Every row of ``teacher`` drawn once for each offset: (rows * offsets, ...)."""
    rows = len(teacher)
    return sample_tokens(
        teacher.repeat_interleave(len(offsets), 0), offsets.repeat(rows), draws=draws
    )


# The mean over evenly spread offsets is the mean over all of them, up to the steps' width.
OFFSETS = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000


@settings(max_examples=20, deadline=None)
@given(pair=logit_pairs(), draws=st.sampled_from([1, 3, 50]))
def test_drawn_kl_is_unbiased(pair: tuple[torch.Tensor, torch.Tensor], draws: int) -> None:
    """Over all draws, value and gradient are on the mean those of the full divergence."""
    student, teacher = pair
    soft = drawn(teacher, draws=draws, offsets=OFFSETS)

    def estimate(logits: torch.Tensor) -> torch.Tensor:
        values = stored_kl(logits.repeat_interleave(len(OFFSETS), 0), soft)
        return values.reshape(len(logits), -1).mean(-1)

    spread = float(student.abs().max())
    bound = 1e-4 + 12 / len(OFFSETS) * (1 + spread)
    assert torch.allclose(estimate(student), kl_forward(student, teacher), atol=bound)
    full = gradient(lambda logits: kl_forward(logits, teacher), student)
    assert torch.allclose(gradient(estimate, student), full, atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(pair=logit_pairs(), offset=st.floats(0, 1, exclude_max=True))
def test_drawn_kl_is_the_naive_sum(pair: tuple[torch.Tensor, torch.Tensor], offset: float) -> None:
    """One draw of it: -sum w log q - H(p), with the entropy of the whole distribution."""
    student, teacher = pair
    soft = drawn(teacher, draws=7, offsets=torch.tensor([offset], dtype=torch.float64))
    found = stored_kl(student, soft)
    for row, (ids, weights) in enumerate(
        zip(soft.ids.tolist(), soft.weights.tolist(), strict=True)
    ):
        q, p = softmax(student[row].tolist(), 1.0), softmax(teacher[row].tolist(), 1.0)
        value = -math.fsum(w * math.log(q[i]) for i, w in zip(ids, weights, strict=True) if w)
        value += math.fsum(share * math.log(share) for share in p if share > 0)
        assert found[row].item() == pytest.approx(value, abs=1e-4)


def test_empty_places_count_nothing() -> None:
    """A position with fewer tokens than its neighbours is padded, and the padding is not seen."""
    logits = torch.tensor([[50.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    soft = sample_tokens(logits, torch.tensor([0.5, 0.5], dtype=torch.float64), draws=3)
    assert soft.weights.tolist() == [[1, 0, 0], pytest.approx([1 / 3] * 3)]
    alone = SampledTargets(soft.ids[:1, :1], soft.weights[:1, :1], soft.entropy[:1])
    student = torch.tensor([[0.3, -1.0, 2.0]])
    assert torch.equal(stored_kl(student, soft[:1]), stored_kl(student, alone))


def test_drawn_labels_have_no_other_temperature() -> None:
    """What was drawn at temperature 1 is not taken for a tempered distribution."""
    soft = sample_tokens(torch.zeros(1, 3), torch.zeros(1, dtype=torch.float64), draws=3)
    with pytest.raises(TrainingError, match="temperature 1"):
        stored_kl(torch.zeros(1, 3), soft, temperature=2.0)


@pytest.mark.parametrize("shape", [(1, 3), (3, 3), (2, 3, 1)])
def test_drawn_labels_of_other_positions_are_refused(shape: tuple[int, ...]) -> None:
    """Shapes that do not fit are named instead of broadcast."""
    soft = sample_tokens(torch.zeros(2, 3), torch.zeros(2, dtype=torch.float64), draws=3)
    with pytest.raises(TrainingError):
        kl_sampled(torch.zeros(shape), soft)
