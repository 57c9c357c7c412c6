"""Scores as pure functions of gold labels and predictions.

A prediction that is none of the labels is counted as wrong; it has a column of its own in the
confusion matrix.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ollama_bridge.repetition import is_looping, repeated_share

OTHER = "(other)"
FEW_CUT = 0.05  # of a model's answers; more are told of
# What it means for an answer that its limit cut it.
CUT_LABELS = "thinking included, and count as wrong"
CUT_REPLIES = "so whether they end, how long they are and what they come to is not known"
Counts = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
_CONFIDENCE = 0.95
_SEED = 0  # of every drawing: whoever scores the same answers again finds the same intervals
_DRAWN_AT_A_TIME = 1 << 22  # numbers: 32 MiB


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
        macro_f1: Mean of the F1 of the labels that occur, as gold or as prediction.
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


def mean_f1(right: Counts | Floats, either: Counts | Floats) -> Floats:
    """Macro F1 of each sample, (samples,): over the labels that are in it, seen or said.

    Of the others nothing can be told: counted as 0 they would make the score one of the sample.

    Args:
        right: (samples, labels); how often a label was right.
        either: (samples, labels); how often it was the answer, plus how often it was given.
    """
    f1 = 2 * right / np.maximum(1, either)
    result: Floats = f1.sum(axis=-1) / np.maximum(1, (either > 0).sum(axis=-1))
    return result


def score(
    gold: Sequence[str],
    predicted: Sequence[str],
    labels: Sequence[str],
    *,
    bootstrap_samples: int,
) -> Scores:
    """Accuracy, macro F1 and confusion with bootstrap intervals over the texts."""
    matrix = confusion_matrix(gold, predicted, labels)
    right, said, counts = _cells_of(matrix)
    found = _metrics(right, said, counts, labels=len(labels))
    spread = _resampled(
        counts[0],
        lambda drawn: _metrics(right, said, drawn, labels=len(labels)),
        bootstrap_samples,
    )
    intervals = {name: interval_of(float(found[name][0]), spread[name]) for name in found}
    return Scores(**intervals, confusion=matrix)


def share_right(right: Sequence[bool], *, bootstrap_samples: int) -> Interval:
    """Share of right answers with its bootstrap interval over the texts."""
    counts = np.array([len(right) - sum(right), sum(right)], dtype=np.int64)
    spread = _resampled(
        counts, lambda drawn: {"right": drawn[:, 1] / max(1, len(right))}, bootstrap_samples
    )
    return interval_of(sum(right) / max(1, len(right)), spread["right"])


def ratio_of_sums(part: Counts, whole: Counts, *, bootstrap_samples: int) -> Interval:
    """A sum by a sum, such as a micro F1, with its bootstrap interval over the texts.

    Args:
        part: (texts,); for an F1 twice what was right.
        whole: (texts,); for an F1 what was to be said, plus what was said.
        bootstrap_samples: How many samples the interval is of.
    """

    def ratio(drawn: Counts) -> dict[str, Floats]:
        return {"ratio": (drawn @ part) / np.maximum(1, drawn @ whole)}

    texts = np.ones(len(part), dtype=np.int64)
    spread = _resampled(texts, ratio, bootstrap_samples)["ratio"]
    return interval_of(float(ratio(texts[None])["ratio"][0]), spread)


def paired_difference(
    gold: Sequence[str],
    first: Sequence[str],
    second: Sequence[str],
    labels: Sequence[str],
    *,
    bootstrap_samples: int,
) -> dict[str, Interval]:
    """``first`` minus ``second`` on the same texts, accuracy and macro F1.

    Both are resampled together, so what a hard text does to both cancels out.
    """
    size = len(labels)
    place = {label: number for number, label in enumerate(labels)}
    texts = Counter(
        (place[right], place.get(one, size), place.get(other, size))
        for right, one, other in zip(gold, first, second, strict=True)
    )
    texts.setdefault((size - 1, size, size), 0)  # see _cells_of
    right, one, other = np.array(sorted(texts), dtype=np.int64).T
    counts = np.array([texts[cell] for cell in sorted(texts)], dtype=np.int64)

    def differences(drawn: Counts) -> dict[str, Floats]:
        ours = _metrics(right, one, drawn, labels=size)
        theirs = _metrics(right, other, drawn, labels=size)
        return {name: ours[name] - theirs[name] for name in ours}

    found = differences(counts[None])
    spread = _resampled(counts, differences, bootstrap_samples)
    return {name: interval_of(float(found[name][0]), spread[name]) for name in found}


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
    answers: Sequence[str],
    *,
    ended: Sequence[bool],
    tokens: Sequence[int],
    repeated: Sequence[bool] = (),
) -> dict[str, float]:
    """How answers look: ended by themselves, length, and going round in circles.

    Args:
        ended: Whether the model ended them, rather than the limit.
        tokens: Their lengths.
        repeated: Which the daemon ended because a token came again and again; empty: none. They go
            round in circles also where it is a mark or a blank, which in texts are no loop.
    """
    loops = [is_looping(answer) for answer in answers]
    if repeated:
        loops = [loop or known for loop, known in zip(loops, repeated, strict=True)]
    count = max(1, len(answers))
    return {
        "answers": float(len(answers)),
        "ended": sum(ended) / count,
        "mean_tokens": sum(tokens) / count,
        "looping": sum(loops) / count,
        "repeated_3grams": sum(map(repeated_share, answers)) / count,
        "empty": sum(not answer.strip() for answer in answers) / count,
    }


def _cells_of(confusion: Counts) -> tuple[Counts, Counts, Counts]:
    """Gold label and answer of the cells that hold texts, (cells,) each, and how many, (1, cells).

    The last cell is always there: with it, a generator draws what it would over all cells.
    """
    holds = confusion > 0
    holds[-1, -1] = True
    right, said = np.nonzero(holds)
    return right, said, confusion[right, said][None]


def _metrics(right: Counts, said: Counts, counts: Counts, *, labels: int) -> dict[str, Floats]:
    """Accuracy and macro F1 of each sample, (samples,).

    Args:
        right: (cells,) number of the gold label.
        said: (cells,) number of the answer; ``labels`` is any other.
        counts: (samples, cells) texts.
        labels: How many there are.
    """
    hits = np.empty((len(counts), labels), dtype=np.int64)
    either = np.empty_like(hits)
    for label in range(labels):
        is_right, is_said = right == label, said == label
        hits[:, label] = counts[:, is_right & is_said].sum(axis=1)
        either[:, label] = counts[:, is_right].sum(axis=1) + counts[:, is_said].sum(axis=1)
    return {
        "accuracy": hits.sum(axis=1) / np.maximum(1, counts.sum(axis=1)),
        "macro_f1": mean_f1(hits, either),
    }


def _resampled(
    counts: Counts,
    metrics: Callable[[Counts], dict[str, Floats]],
    samples: int,
) -> dict[str, Floats]:
    """Metrics of bootstrap samples, (samples,): n texts drawn with replacement, counted by cell.

    Drawing texts is a multinomial over the cells that hold any: at most as many as texts. Some
    samples are drawn at a time, so that memory does not grow with their number.
    """
    total, rng = int(counts.sum()), np.random.default_rng(_SEED)
    shares = counts / max(1, total)
    some = max(1, _DRAWN_AT_A_TIME // max(1, len(counts)))
    parts = [
        metrics(rng.multinomial(total, shares, size=min(some, samples - start)))
        for start in range(0, samples, some)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def interval_of(value: float, resampled: Floats) -> Interval:
    """A score and the 95 % interval of what it was in samples (samples,)."""
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(value, float(low), float(high))
