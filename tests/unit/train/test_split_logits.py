"""Logits split into the k + 1 classes that a store knows, and divergences over them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from fakes.distributions import cut, gradient, logit_pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_bridge.errors import TrainingError
from ollama_bridge.label_store.labels import SoftTargets, top_k_with_residual
from ollama_bridge.train.losses.split_logits import split_logits, teacher_classes
from ollama_bridge.train.losses.vocabulary import (
    cross_entropy,
    jensen_shannon,
    kl_forward,
    kl_reverse,
    kl_skewed_forward,
    kl_skewed_reverse,
    total_variation,
)

Pair = tuple[torch.Tensor, torch.Tensor]
DIVERGENCES = (
    kl_forward,
    kl_reverse,
    kl_skewed_forward,
    kl_skewed_reverse,
    jensen_shannon,
    total_variation,
)


def known_classes(student: torch.Tensor, soft: SoftTargets) -> Pair:
    """Both distributions over the tokens that were kept and all others as one."""
    labels = torch.zeros(len(student), dtype=torch.int64)
    classes = split_logits(student, soft.ids, labels).classes
    return classes, teacher_classes(soft, vocabulary=student.shape[1])


@settings(max_examples=40, deadline=None)
@given(pair=logit_pairs(), top_k=st.integers(1, 12))
@pytest.mark.parametrize("loss", DIVERGENCES)
def test_classes_bound_the_whole_from_below(
    loss: Callable[..., torch.Tensor], pair: Pair, top_k: int
) -> None:
    """At T = 1 the value over classes is between 0 and the full one, equal where k = V."""
    student, teacher = pair
    classes = known_classes(student, cut(teacher, min(top_k, student.shape[1])))
    value, full = loss(*classes), loss(student, teacher)
    assert (value >= -1e-12).all()
    assert (value <= full + 1e-9).all()
    if top_k >= student.shape[1]:
        assert torch.allclose(value, full, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(pair=logit_pairs(), top_k=st.integers(1, 12))
def test_cross_entropy_is_that_of_all_logits(pair: Pair, top_k: int) -> None:
    """Whether the label is among the tokens that were kept or not, in value and gradient."""
    student, teacher = pair
    soft = cut(teacher, min(top_k, student.shape[1]))
    for labels in (teacher.argmax(-1), teacher.argmin(-1)):

        def split(logits: torch.Tensor, chosen: torch.Tensor = labels) -> torch.Tensor:
            return split_logits(logits, soft.ids, chosen).cross_entropy()

        def whole(logits: torch.Tensor, chosen: torch.Tensor = labels) -> torch.Tensor:
            return cross_entropy(logits, chosen)

        assert torch.allclose(split(student), whole(student), atol=1e-12)
        assert torch.allclose(gradient(split, student), gradient(whole, student), atol=1e-12)


def test_losses_of_one_split_add_up_in_one_gradient() -> None:
    """Hard and soft labels of the same split: the gradient of their sum, in one pass."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, 6, 30, generator=generator, dtype=torch.float64)
    soft = cut(teacher, 5)
    labels = torch.arange(6)

    def together(logits: torch.Tensor) -> torch.Tensor:
        split = split_logits(logits, soft.ids, labels)
        kl = kl_reverse(split.classes, teacher_classes(soft, vocabulary=30), temperature=2.0)
        return 0.3 * split.cross_entropy() + kl

    def apart(logits: torch.Tensor) -> torch.Tensor:
        rest = logits.scatter(-1, soft.ids, float("-inf")).logsumexp(-1, keepdim=True)
        classes = torch.cat([logits.gather(-1, soft.ids), rest], -1)
        kl = kl_reverse(classes, teacher_classes(soft, vocabulary=30), temperature=2.0)
        return 0.3 * cross_entropy(logits, labels) + kl

    assert torch.allclose(together(student), apart(student), atol=1e-12)
    assert torch.allclose(gradient(together, student), gradient(apart, student), atol=1e-12)


def test_sure_students_lose_no_digit_in_float32() -> None:
    """A label whose probability is 1 - 1e-6 costs 1e-6, and its gradient is as small."""
    student = torch.zeros(1, 4)
    student[0, 1] = math.log(3e6)
    soft = top_k_with_residual(student + 1.0, top_k=1)
    label = torch.tensor([1])
    value = split_logits(student, soft.ids, label).cross_entropy()
    assert float(value) == pytest.approx(1e-6, rel=0.1)
    slope = gradient(lambda s: split_logits(s, soft.ids, label).cross_entropy(), student)
    assert float(slope[0, 1]) == pytest.approx(-1e-6, rel=0.1)
    assert float(slope[0, 0]) == pytest.approx(1e-6 / 3, rel=1e-3)


@pytest.mark.parametrize("shape", [(1, 3), (2, 2)])
def test_labels_of_other_positions_are_refused(shape: tuple[int, int]) -> None:
    """Too few positions, or more tokens than the student has, are named."""
    soft = top_k_with_residual(torch.zeros(2, 3), top_k=3)
    with pytest.raises(TrainingError, match="do not fit"):
        split_logits(torch.zeros(shape), soft.ids, torch.zeros(2, dtype=torch.int64))
