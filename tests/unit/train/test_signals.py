"""Losses beside stored soft labels of which some tokens have no mass."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fakes.distributions import gradient

from ollama_bridge.label_store.formats import TopKFormat
from ollama_bridge.label_store.info import StoreInfo
from ollama_bridge.label_store.labels import SoftTargets, top_k_with_residual
from ollama_bridge.recipe.losses import (
    JensenShannonLoss,
    KLForwardLoss,
    KLReverseLoss,
    KLSkewedLoss,
    TotalVariationLoss,
    VocabularyLoss,
)
from ollama_bridge.teacher.alignment import Distribution
from ollama_bridge.teacher.named_targets import soft_targets
from ollama_bridge.train.losses.signals import StoredSignal
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
from ollama_bridge.train.losses.vocabulary_terms import vocabulary_loss
from ollama_bridge.train.trimmed_targets import into_vocabulary

SIZE, TOP_K = 30, 5
REVERSE: tuple[VocabularyLoss, ...] = (
    KLReverseLoss(temperature=2.0),
    KLSkewedLoss(direction="reverse", alpha=0.0, temperature=2.0),
)

# Every other one, and the function that it is.
OTHERS: tuple[tuple[VocabularyLoss, Callable[..., torch.Tensor]], ...] = (
    (KLForwardLoss(temperature=2.0), kl_forward),
    (KLSkewedLoss(alpha=0.1, temperature=2.0), kl_skewed_forward),
    (KLSkewedLoss(direction="reverse", alpha=0.1, temperature=2.0), kl_skewed_reverse),
    (JensenShannonLoss(temperature=2.0), jensen_shannon),
    (TotalVariationLoss(temperature=2.0), total_variation),
)


def logits(seed: int, width: int = SIZE) -> torch.Tensor:
    return 2 * torch.randn(6, width, generator=torch.Generator().manual_seed(seed))


def stored(soft: SoftTargets) -> SoftTargets:
    """What a store gives back."""
    info = StoreInfo("top_k", SIZE, "teacher", "tokenizer", "float32", TOP_K)
    blocks = TopKFormat(info).pack(soft, [len(soft)])
    return TopKFormat(info).read([(blocks[0], len(soft))])


def trimmed() -> SoftTargets:
    """Half of the vocabulary is gone; places of tokens that are gone have no mass."""
    soft = stored(top_k_with_residual(logits(1), top_k=TOP_K))
    new_ids = torch.arange(SIZE) // 2
    new_ids[1::2] = -1
    return into_vocabulary(soft, new_ids)


def named() -> SoftTargets:
    """A daemon's: certain in the first half, three tokens and the mass of the rest in the other."""
    found = Distribution((1, 2, 3), (-0.5, -2.0, -3.0), -1.8)
    return stored(soft_targets([None] * 3 + [found] * 3, [4] * 6, top_k=TOP_K, vocab_size=SIZE))


def hole() -> SoftTargets:
    """Carried over from another vocabulary, where nothing could be."""
    certain = torch.full((6, SIZE), float("-inf")).scatter(1, torch.full((6, 1), 4), 0.0)
    return stored(top_k_with_residual(certain, top_k=TOP_K))


def value(loss: VocabularyLoss, student: torch.Tensor, soft: SoftTargets) -> torch.Tensor:
    signal = StoredSignal(soft, torch.full((len(student),), 4))
    return vocabulary_loss(loss, signal.beside(student, slice(0, len(student))))


@pytest.mark.parametrize("loss", REVERSE)
@pytest.mark.parametrize("make", [trimmed, named, hole])
def test_tokens_without_mass_do_not_make_the_reverse_kl_infinite(
    make: Callable[[], SoftTargets], loss: VocabularyLoss
) -> None:
    """Value and gradient are of the size of a divergence, not of what a store has for no mass."""
    soft = make()
    student = logits(2, SIZE // 2 if make is trimmed else SIZE)
    found = value(loss, student, soft)
    assert (found >= 0).all()
    assert (found < 100).all()
    assert gradient(lambda logits: value(loss, logits, soft), student).abs().max() < 100


def test_what_has_no_mass_is_counted_with_the_rest() -> None:
    """The value is that over the tokens that have some, and all others as one."""
    soft = named()
    student = logits(2)
    fewer = SoftTargets(soft.ids[3:, :3], soft.logprobs[3:, :3], soft.residual[3:])
    classes = split_logits(student[3:], fewer.ids, torch.zeros(3, dtype=torch.int64)).classes
    expected = kl_reverse(classes, teacher_classes(fewer, vocabulary=SIZE), temperature=2.0)
    torch.testing.assert_close(value(REVERSE[0], student, soft)[3:], expected)


@pytest.mark.parametrize(("loss", "function"), OTHERS)
def test_every_loss_counts_with_the_rest_what_has_no_mass(
    loss: VocabularyLoss, function: Callable[..., torch.Tensor]
) -> None:
    """Value and gradient are those over the named tokens, and all others as one."""
    soft, student = named()[3:], logits(2)[3:]
    fewer = SoftTargets(soft.ids[:, :3], soft.logprobs[:, :3], soft.residual)
    theirs = teacher_classes(fewer, vocabulary=SIZE)

    def expected(values: torch.Tensor) -> torch.Tensor:
        ours = split_logits(values, fewer.ids, torch.zeros(3, dtype=torch.int64)).classes
        return function(ours, theirs, temperature=2.0)

    torch.testing.assert_close(value(loss, student, soft), expected(student))
    slope = gradient(lambda values: value(loss, values, soft), student)
    torch.testing.assert_close(slope, gradient(expected, student))


@pytest.mark.parametrize(("loss", "function"), OTHERS)
def test_a_certain_label_is_not_tempered(
    loss: VocabularyLoss, function: Callable[..., torch.Tensor]
) -> None:
    """It is no distribution of the teacher's: the value is that at T = 1, whatever T is."""
    student = logits(2)
    certain = torch.full((6, SIZE), float("-inf")).scatter(1, torch.full((6, 1), 4), 0.0)

    def expected(values: torch.Tensor) -> torch.Tensor:
        return function(values, certain, temperature=1.0)

    torch.testing.assert_close(value(loss, student, hole()), expected(student))
    slope = gradient(lambda values: value(loss, values, hole()), student)
    torch.testing.assert_close(slope, gradient(expected, student))


def test_a_certain_label_is_learnt_by_its_cross_entropy() -> None:
    """As by the forward KL: the reverse one is infinite for every student."""
    student = logits(2)
    expected = cross_entropy(student, torch.full((6,), 4))
    torch.testing.assert_close(value(KLReverseLoss(), student, hole()), expected)
    torch.testing.assert_close(value(KLReverseLoss(), student, named())[:3], expected[:3])
    # Of a vocabulary that is kept as a whole there is no rest.
    whole = torch.tensor([[0.75, 0.25, 0.0]]).log()
    soft = SoftTargets(torch.tensor([[0, 1, 2]]), whole, torch.tensor([0.0]).log())
    student = student[:1, :3]
    expected = kl_forward(student, whole)
    found = vocabulary_loss(
        KLReverseLoss(), StoredSignal(soft, torch.tensor([0])).beside(student, slice(0, 1))
    )
    torch.testing.assert_close(found, expected)


def test_where_all_have_mass_nothing_is_changed() -> None:
    """Bit for bit."""
    soft, student = stored(top_k_with_residual(logits(1), top_k=TOP_K)), logits(2)
    classes = split_logits(student, soft.ids, torch.zeros(6, dtype=torch.int64)).classes
    expected = kl_reverse(classes, teacher_classes(soft, vocabulary=SIZE), temperature=2.0)
    assert torch.equal(value(REVERSE[0], student, soft), expected)
