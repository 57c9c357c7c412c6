"""The first of many examples stand for all of them, however their file is sorted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from ollama_bridge.encoding.encode import EncodedExample
from ollama_bridge.encoding.spread import spread_out


def examples_of(labels: Sequence[str | None], *, tokens: int = 3) -> list[EncodedExample]:
    ids = np.arange(tokens, dtype=np.int32)
    mask = np.ones(tokens, dtype=np.bool_)
    return [
        EncodedExample(row, ids, mask, turns=1, ended_turns=1, label=label)
        for row, label in enumerate(labels)
    ]


@pytest.mark.parametrize("count", [10, 33, 100, 250])
def test_any_beginning_has_the_shares_of_all(count: int) -> None:
    """Of a file that is sorted by label; a label of a twentieth is there in its share, too."""
    examples = examples_of(["often"] * 550 + ["less"] * 400 + ["rare"] * 50)
    found = Counter(one.label for one in spread_out(examples)[:count])
    for label, share in (("often", 0.55), ("less", 0.4), ("rare", 0.05)):
        assert abs(found[label] - share * count) <= 1


def test_a_beginning_comes_from_all_of_the_file() -> None:
    """Of one label, too: a file is also sorted by where its texts come from."""
    rows = [one.row for one in spread_out(examples_of([None] * 1000))[:100]]
    assert all(10 <= sum(row // 250 == quarter for row in rows) <= 40 for quarter in range(4))


def test_right_answers_that_occur_once_take_no_others_place() -> None:
    """Of dialogues with and without a known answer both are among the first, as often."""
    examples = examples_of([str(number) for number in range(100)] + [None] * 100)
    assert 35 <= sum(one.label is None for one in spread_out(examples)[:100]) <= 65


def test_the_order_is_of_the_rows_alone() -> None:
    """All are there once, and other tokens change nothing."""
    labels = ["a"] * 30 + ["b"] * 10
    order = [one.row for one in spread_out(examples_of(labels))]
    assert sorted(order) == list(range(40))
    again = spread_out(list(reversed(examples_of(labels, tokens=5))))
    assert [one.row for one in again] == order
