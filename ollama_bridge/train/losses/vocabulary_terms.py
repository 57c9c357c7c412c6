"""The losses over a vocabulary, as a recipe names them."""

from __future__ import annotations

from functools import partial

import torch

from ollama_bridge.recipe.losses import (
    CrossEntropyLoss,
    HybridUniversalLoss,
    JensenShannonLoss,
    KLForwardLoss,
    KLReverseLoss,
    KLSkewedLoss,
    TotalVariationLoss,
    UniversalLoss,
    VocabularyLoss,
)
from ollama_bridge.train.losses.signals import Comparison
from ollama_bridge.train.losses.sparse import Divergence
from ollama_bridge.train.losses.vocabulary import (
    jensen_shannon,
    kl_skewed_forward,
    kl_skewed_reverse,
    total_variation,
)


def vocabulary_loss(loss: VocabularyLoss, found: Comparison) -> torch.Tensor:
    """One loss on each of some positions.

    Returns:
        (n,) values, without the loss's weight.

    Raises:
        TrainingError: the teacher is not known as the loss has to know it.
    """
    if isinstance(loss, CrossEntropyLoss):
        return found.cross_entropy()
    if isinstance(loss, KLForwardLoss):
        return found.kl_forward(temperature=loss.temperature)
    if isinstance(loss, KLReverseLoss):
        return found.kl_reverse(temperature=loss.temperature)
    if isinstance(loss, KLSkewedLoss) and loss.direction == "reverse" and loss.alpha == 0:
        return found.kl_reverse(temperature=loss.temperature)  # which it is, where it is infinite
    if isinstance(loss, UniversalLoss):
        return found.universal(temperature=loss.temperature)
    if isinstance(loss, HybridUniversalLoss):
        return found.hybrid_universal(
            temperature=loss.temperature, unmatched_weight=loss.unmatched_weight
        )
    return found.divergence(_divergence(loss), temperature=loss.temperature)


def _divergence(loss: KLSkewedLoss | JensenShannonLoss | TotalVariationLoss) -> Divergence:
    match loss:
        case KLSkewedLoss(direction="forward"):
            return partial(kl_skewed_forward, alpha=loss.alpha)
        case KLSkewedLoss():
            return partial(kl_skewed_reverse, alpha=loss.alpha)
        case JensenShannonLoss():
            return partial(jensen_shannon, beta=loss.beta)
        case TotalVariationLoss():
            return total_variation
