"""Scores as pure functions of gold labels and predictions.

A prediction that is none of the labels is counted as wrong; it has a column of its own in the
confusion matrix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ollama_bridge.repetition import is_looping, repeated_share

OTHER = "(other)"
Counts = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A score and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """For a report."""
        return {name: round(getattr(self, name), 5) for name in ("value", "low", "high")}


@dataclass(frozen=True)
class Scores:
    """What a model's predictions are worth.

    Attributes:
        accuracy: Share of right predictions.
        macro_f1: Mean over the labels of their F1.
        confusion: (labels, labels + 1); gold by prediction, the last column other answers.
    """

    accuracy: Interval
    macro_f1: Interval
    confusion: Counts


def confusion_matrix(
    gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]
) -> Counts:
    """Counts (labels, labels + 1) of gold label by prediction; the last column are others."""
    place = {label: number for number, label in enumerate(labels)}
    matrix = np.zeros((len(labels), len(labels) + 1), dtype=np.int64)
    for right, said in zip(gold, predicted, strict=True):
        matrix[place[right], place.get(said, len(labels))] += 1
    return matrix


def accuracy_of(confusion: Counts) -> Floats:
    """Accuracy of (..., labels, labels + 1) matrices."""
    right = np.trace(confusion[..., :-1], axis1=-2, axis2=-1)
    result: Floats = right / np.maximum(1, confusion.sum(axis=(-2, -1)))
    return result


def macro_f1_of(confusion: Counts) -> Floats:
    """Macro F1 of (..., labels, labels + 1) matrices; a label never seen nor said has F1 0."""
    right = np.diagonal(confusion[..., :-1], axis1=-2, axis2=-1)
    relevant = confusion.sum(axis=-1)
    said = confusion[..., :-1].sum(axis=-2)
    result: Floats = (2 * right / np.maximum(1, relevant + said)).mean(axis=-1)
    return result


def score(
    gold: Sequence[str],
    predicted: Sequence[str],
    labels: Sequence[str],
    *,
    bootstrap_samples: int,
    seed: int = 0,
) -> Scores:
    """Accuracy, macro F1 and confusion with bootstrap intervals over the texts."""
    matrix = confusion_matrix(gold, predicted, labels)
    resampled = _resample(matrix.ravel(), bootstrap_samples, seed).reshape(-1, *matrix.shape)
    return Scores(
        accuracy=interval_of(float(accuracy_of(matrix)), accuracy_of(resampled)),
        macro_f1=interval_of(float(macro_f1_of(matrix)), macro_f1_of(resampled)),
        confusion=matrix,
    )


def share_right(right: Sequence[bool], *, bootstrap_samples: int, seed: int = 0) -> Interval:
    """Share of right answers with its bootstrap interval over the texts."""
    counts = np.array([len(right) - sum(right), sum(right)], dtype=np.int64)
    resampled = _resample(counts, bootstrap_samples, seed)[:, 1]
    return interval_of(sum(right) / max(1, len(right)), resampled / max(1, len(right)))


def paired_difference(
    gold: Sequence[str],
    first: Sequence[str],
    second: Sequence[str],
    labels: Sequence[str],
    *,
    bootstrap_samples: int,
    seed: int = 0,
) -> dict[str, Interval]:
    """``first`` minus ``second`` on the same texts, accuracy and macro F1.

    Both are resampled together, so what a hard text does to both cancels out.
    """
    size = len(labels)
    place = {label: number for number, label in enumerate(labels)}
    cells = np.zeros((size, size + 1, size + 1), dtype=np.int64)
    for right, one, other in zip(gold, first, second, strict=True):
        cells[place[right], place.get(one, size), place.get(other, size)] += 1
    resampled = _resample(cells.ravel(), bootstrap_samples, seed).reshape(-1, *cells.shape)
    differences = {}
    for name, metric in (("accuracy", accuracy_of), ("macro_f1", macro_f1_of)):
        value = float(metric(cells.sum(axis=2)) - metric(cells.sum(axis=1)))
        spread = metric(resampled.sum(axis=3)) - metric(resampled.sum(axis=2))
        differences[name] = interval_of(value, spread)
    return differences


def agreement(first: Sequence[str], second: Sequence[str]) -> float:
    """Share of texts on which two models say the same."""
    same = sum(one == other for one, other in zip(first, second, strict=True))
    return same / len(first) if first else math.nan


def perplexity(nll_sum: float, tokens: int) -> float:
    """Raise e to the mean negative log-likelihood a token, in nats; infinite where it overflows."""
    try:
        return math.exp(nll_sum / tokens)
    except OverflowError:
        return math.inf


def answer_scores(
    answers: Sequence[str], *, ended: Sequence[bool], tokens: Sequence[int]
) -> dict[str, float]:
    """How answers look: ended by themselves, length, and going round in circles.

    Args:
        answers: Texts.
        ended: Whether the model ended them, rather than the limit.
        tokens: Their lengths.
    """
    count = max(1, len(answers))
    return {
        "answers": float(len(answers)),
        "ended": sum(ended) / count,
        "mean_tokens": sum(tokens) / count,
        "looping": sum(map(is_looping, answers)) / count,
        "repeated_3grams": sum(map(repeated_share, answers)) / count,
        "empty": sum(not answer.strip() for answer in answers) / count,
    }


def _resample(cells: Counts, samples: int, seed: int) -> Counts:
    """(samples, cells) counts: drawing n texts with replacement is a multinomial over the cells."""
    total = int(cells.sum())
    if total == 0:
        return np.zeros((samples, len(cells)), dtype=np.int64)
    drawn: Counts = np.random.default_rng(seed).multinomial(total, cells / total, size=samples)
    return drawn


def interval_of(value: float, resampled: Floats) -> Interval:
    """A score and the 95 % interval of what it was in samples (samples,)."""
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(value, float(low), float(high))
