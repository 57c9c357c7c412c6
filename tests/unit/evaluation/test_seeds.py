"""Intervals over texts and seeds agree with those over texts, and know what seeds do."""

from __future__ import annotations

import numpy as np
import pytest

from ollama_bridge.evaluation.metrics import paired_difference, score
from ollama_bridge.evaluation.seeds import drawings, metrics_of, over_seeds

LABELS = ("a", "b")
TEXTS = 400


def columns(accuracy: float, seed: int) -> dict[str, np.ndarray]:
    """A run whose predictions are right that often."""
    rng = np.random.default_rng(seed)
    gold = np.where(rng.random(TEXTS) < 0.3, "a", "b")
    wrong = np.where(gold == "a", "b", "a")
    tokens = rng.integers(1, 9, TEXTS).astype(float)
    return {
        "gold": gold,
        "said": np.where(rng.random(TEXTS) < accuracy, gold, wrong),
        "tokens": tokens,
        "kl": rng.gamma(2.0, 0.1, TEXTS) * tokens,
        "nll": rng.gamma(2.0, 0.2, TEXTS) * tokens,
    }


def test_one_seed_is_the_bootstrap_over_texts() -> None:
    """Values are those of `metrics`, and so are intervals, up to chance of the drawing."""
    run = columns(0.8, seed=1)
    weights = drawings(TEXTS, samples=4000)
    found = metrics_of(run, LABELS, weights)
    expected = score(run["gold"], run["said"], LABELS, bootstrap_samples=4000)
    for metric in ("accuracy", "macro_f1"):
        ours, theirs = over_seeds([found[metric]]), getattr(expected, metric)
        assert ours.value == pytest.approx(theirs.value)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.006)
    assert found["kl"][0] == pytest.approx(run["kl"].sum() / run["tokens"].sum())
    assert found["cross_entropy"][0] == pytest.approx(run["nll"].sum() / run["tokens"].sum())
    assert set(metrics_of(run, (), weights)) == {"kl", "cross_entropy"}


def test_labels_that_a_drawing_does_not_hold_cost_nothing() -> None:
    """As in `metrics`: a run that is always right has F1 1 in every drawing."""
    run = columns(1.0, seed=1)
    found = metrics_of(run, (*LABELS, "c"), drawings(TEXTS, samples=50))
    assert (found["macro_f1"] == 1).all()


def test_a_difference_is_paired() -> None:
    """Arms that agree on most texts differ by an interval far narrower than their own ones."""
    first = columns(0.8, seed=1)
    second = {**first, "said": first["said"].copy()}
    second["said"][:10] = second["gold"][:10]
    weights = drawings(TEXTS, samples=4000)
    values = [metrics_of(one, LABELS, weights)["accuracy"] for one in (second, first)]
    found = over_seeds([values[0] - values[1]])
    expected = paired_difference(
        first["gold"], second["said"], first["said"], LABELS, bootstrap_samples=4000
    )["accuracy"]
    assert found.value == pytest.approx(expected.value)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.003)
    own = over_seeds([values[1]])
    assert found.high - found.low < 0.5 * (own.high - own.low)


def test_seeds_that_disagree_widen_the_interval() -> None:
    """The mean is over the seeds; which of them were drawn is part of the interval."""
    weights = drawings(TEXTS, samples=4000)
    runs = [
        metrics_of(columns(accuracy, seed=3), LABELS, weights)["accuracy"]
        for accuracy in (0.2, 0.9, 0.9)
    ]
    found = over_seeds(runs)
    assert found.value == pytest.approx(np.mean([run[0] for run in runs]))
    assert found.of_seeds == tuple(float(run[0]) for run in runs)
    assert found.low < 0.25
    assert found.high > 0.85
    same = over_seeds([runs[0]] * 3)
    assert same.high - same.low < 0.1
