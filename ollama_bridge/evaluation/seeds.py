"""Scores of runs that differ by their seed: means, and intervals over texts and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ollama_bridge.evaluation.metrics import Floats, Interval, interval_of, mean_f1

Columns = Mapping[str, np.ndarray]  # of strings or numbers
_SEED_OF_TEXTS = 0
_SEED_OF_RUNS = 1  # another: the runs are drawn independently of the texts


@dataclass(frozen=True)
class SeedInterval(Interval):
    """A mean over seeds, its 95 % bootstrap interval, and what it is the mean of."""

    of_seeds: tuple[float, ...] = ()


def drawings(texts: int, *, samples: int) -> Floats:
    """How often each text is drawn: (1 + samples, texts); in the first row each is there once."""
    rng = np.random.default_rng(_SEED_OF_TEXTS)
    drawn = rng.multinomial(texts, np.full(texts, 1 / texts), size=samples)
    return np.concatenate([np.ones((1, texts)), drawn.astype(np.float64)])


def metrics_of(columns: Columns, labels: Sequence[str], weights: Floats) -> dict[str, Floats]:
    """Every metric of one run, (samples,) each.

    ``kl`` and ``cross_entropy`` are nats a token. ``accuracy`` and ``macro_f1`` are there if there
    are labels.

    Args:
        columns: (texts,) each: ``kl``, ``nll`` (sums over the answer's tokens), ``tokens``, and for
            labels ``gold`` and ``said``.
        labels: Of a classification, or none.
        weights: (samples, texts), see :func:`drawings`.
    """
    tokens = weights @ columns["tokens"]
    metrics = {
        "kl": weights @ columns["kl"] / tokens,
        "cross_entropy": weights @ columns["nll"] / tokens,
    }
    if labels:
        gold, said = columns["gold"], columns["said"]
        metrics["accuracy"] = weights @ (gold == said).astype(np.float64) / weights.sum(axis=1)
        right, either = [], []
        for label in labels:
            right.append(weights @ ((gold == label) & (said == label)).astype(np.float64))
            either.append(weights @ ((gold == label).astype(np.float64) + (said == label)))
        metrics["macro_f1"] = mean_f1(np.stack(right, axis=1), np.stack(either, axis=1))
    return metrics


def over_seeds(runs: Sequence[Floats]) -> SeedInterval:
    """The mean over runs of a metric, or of a difference between two arms.

    Seeds are drawn with replacement, as the texts were. With few of them the interval is rather
    too narrow: of n seeds by sqrt((n - 1) / n) in the part that the seeds have in it.

    Args:
        runs: (1 + samples,) of each seed, all with the same drawings. For a difference: of both
            arms with the same seed, so that what a hard text or an order of batches does to both
            cancels out.
    """
    values = np.stack(runs, axis=1)
    count = values.shape[1]
    drawn = np.random.default_rng(_SEED_OF_RUNS).multinomial(
        count, np.full(count, 1 / count), size=len(values) - 1
    )
    found = interval_of(float(values[0].mean()), (values[1:] * drawn).sum(axis=1) / count)
    return SeedInterval(found.value, found.low, found.high, tuple(values[0].tolist()))
