"""Scores agree with scikit-learn, and intervals with what theory says."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_bridge.evaluation import metrics
from ollama_bridge.evaluation.metrics import (
    agreement,
    answer_scores,
    confusion_matrix,
    interval_of,
    paired_difference,
    perplexity,
    score,
    share_right,
)

LABELS = ("a", "b", "c")
PAIRS = st.lists(
    st.tuples(st.sampled_from(LABELS), st.sampled_from([*LABELS, "else", ""])), min_size=1
)


def macro_f1_of(confusion: metrics.Counts) -> float:
    """Of the labels that are gold or said; by the definition, a label at a time."""
    f1 = []
    for label in range(len(LABELS)):
        either = confusion[label].sum() + confusion[:, label].sum()
        if either:
            f1.append(2 * confusion[label, label] / either)
    return float(np.mean(f1))


@given(PAIRS)
def test_scores_agree_with_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    """Accuracy, macro F1 and confusion are scikit-learn's, with answers that are no label."""
    from sklearn import metrics as sk  # takes a second, of whoever collects tests

    gold, said = zip(*pairs, strict=True)
    found = score(gold, said, LABELS, bootstrap_samples=1)
    assert found.accuracy.value == pytest.approx(sk.accuracy_score(gold, said))
    there = [label for label in LABELS if label in gold or label in said]
    f1 = sk.f1_score(gold, said, labels=there, average="macro", zero_division=0)
    assert found.macro_f1.value == pytest.approx(f1)
    assert found.confusion.sum() == len(pairs)
    both = [(g, s) for g, s in pairs if s in LABELS]
    if both:
        expected = sk.confusion_matrix(*zip(*both, strict=True), labels=list(LABELS))
        assert (found.confusion[:, :-1] == expected).all()


def test_labels_that_a_sample_does_not_hold_cost_nothing() -> None:
    """A perfect model scores 1, in every sample that is drawn, whatever other labels there are."""
    gold = ["a"] * 30 + ["b"]
    found = score(gold, gold, LABELS, bootstrap_samples=200).macro_f1
    assert (found.value, found.low, found.high) == (1, 1, 1)
    one_is_said = score(["a"] * 4, ["a", "a", "a", "c"], LABELS, bootstrap_samples=100).macro_f1
    assert one_is_said.value == pytest.approx((6 / 7 + 0) / 2)


def test_interval_has_the_width_of_a_binomial() -> None:
    """The bootstrap interval of an accuracy is the normal approximation's, nearly."""
    gold = ["a"] * 2000
    said = ["a"] * 1600 + ["b"] * 400
    accuracy = score(gold, said, LABELS, bootstrap_samples=4000).accuracy
    half = 1.96 * math.sqrt(0.8 * 0.2 / 2000)
    assert accuracy.value == 0.8
    assert accuracy.low == pytest.approx(0.8 - half, abs=0.002)
    assert accuracy.high == pytest.approx(0.8 + half, abs=0.002)


def test_resampling_counts_is_resampling_texts() -> None:
    """Intervals equal those of the textbook bootstrap that draws texts."""
    chooser = np.random.default_rng(3)
    gold = chooser.choice(LABELS, size=150).tolist()
    said = [g if chooser.random() < 0.7 else "a" for g in gold]
    drawn = chooser.integers(0, 150, size=(1500, 150))
    textbook = [
        macro_f1_of(confusion_matrix([gold[i] for i in row], [said[i] for i in row], LABELS))
        for row in drawn
    ]
    ours = score(gold, said, LABELS, bootstrap_samples=8000).macro_f1
    low, high = np.quantile(textbook, [0.025, 0.975])
    assert ours.low == pytest.approx(low, abs=0.012)
    assert ours.high == pytest.approx(high, abs=0.012)


def test_empty_cells_and_parts_change_no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are those of one multinomial over every cell that labels could make up."""
    chooser = np.random.default_rng(5)
    gold = chooser.choice(LABELS, size=60).tolist()
    said = [g if chooser.random() < 0.7 else "else" for g in gold]
    matrix = confusion_matrix(gold, said, LABELS)
    drawn = np.random.default_rng(0).multinomial(60, matrix.ravel() / 60, size=200)
    values = [macro_f1_of(counts.reshape(matrix.shape)) for counts in drawn]
    found = score(gold, said, LABELS, bootstrap_samples=200)
    assert found.macro_f1 == interval_of(macro_f1_of(matrix), np.array(values))
    monkeypatch.setattr(metrics, "_DRAWN_AT_A_TIME", 50)
    in_parts = score(gold, said, LABELS, bootstrap_samples=200)
    assert in_parts.macro_f1 == found.macro_f1
    assert in_parts.accuracy == found.accuracy


def test_many_labels_need_little_memory() -> None:
    """Memory goes by the texts: 400 labels make up 64 million triples, 200 texts are as many."""
    labels = [f"label {number}" for number in range(400)]
    gold = np.random.default_rng(2).choice(labels, size=200).tolist()
    tracemalloc.start()
    found = paired_difference(gold, gold, gold[::-1], labels, bootstrap_samples=200)
    score(gold, gold[::-1], labels, bootstrap_samples=200)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found["accuracy"].value > 0.9
    assert peak_bytes < 16e6


@settings(max_examples=30)
@given(PAIRS)
def test_differences_are_paired(pairs: list[tuple[str, str]]) -> None:
    """The difference is that of the scores, against itself exactly 0 with no width."""
    gold, first = zip(*pairs, strict=True)
    second = list(gold)
    found = paired_difference(gold, first, second, LABELS, bootstrap_samples=100)
    one = score(gold, first, LABELS, bootstrap_samples=100)
    other = score(gold, second, LABELS, bootstrap_samples=100)
    assert found["accuracy"].value == pytest.approx(one.accuracy.value - other.accuracy.value)
    assert found["macro_f1"].value == pytest.approx(one.macro_f1.value - other.macro_f1.value)
    same = paired_difference(gold, first, first, LABELS, bootstrap_samples=100)
    assert all((i.value, i.low, i.high) == (0, 0, 0) for i in same.values())


def test_pairing_narrows_the_interval() -> None:
    """Models that err on the same texts are told apart by few texts."""
    gold = ["a"] * 400
    first = ["a"] * 300 + ["b"] * 100
    second = ["a"] * 290 + ["b"] * 110
    found = paired_difference(gold, first, second, LABELS, bootstrap_samples=2000)["accuracy"]
    assert found.value == pytest.approx(0.025)
    assert found.low > 0


def test_small_measures() -> None:
    """Agreement, perplexity and the look of answers."""
    assert agreement(["a", "b"], ["a", "c"]) == 0.5
    assert perplexity(math.log(8) * 5, 5) == pytest.approx(8)
    assert perplexity(1e6, 1) == math.inf
    found = answer_scores(
        ["Thank you.", "well " * 9, ""], ended=[True, False, True], tokens=[3, 9, 0]
    )
    assert found["ended"] == pytest.approx(2 / 3)
    assert found["mean_tokens"] == 4
    assert found["looping"] == pytest.approx(1 / 3)
    assert found["empty"] == pytest.approx(1 / 3)
    ended_by_ollama = answer_scores(
        ["!" * 31, "Well."], ended=[False, True], tokens=[31, 2], repeated=[True, False]
    )
    assert ended_by_ollama["looping"] == 0.5


def test_a_share_has_the_interval_of_a_binomial() -> None:
    """Resampling the texts spreads the share as the normal approximation says."""
    found = share_right([True] * 300 + [False] * 100, bootstrap_samples=4000)
    spread = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert found.value == 0.75
    assert found.low == pytest.approx(0.75 - spread, abs=0.01)
    assert found.high == pytest.approx(0.75 + spread, abs=0.01)
    assert share_right([], bootstrap_samples=100).value == 0.0
