"""The knapsack: within its budget, monotone, the same every time, and as good as trying all."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pytest
from gguf.constants import GGMLQuantizationType
from hypothesis import given
from hypothesis import strategies as st

from ollama_bridge.quantization.file_types import FILE_TYPES
from ollama_bridge.quantization.tradeoff import Option, TradeOff, candidate_types, file_type_of

Q = GGMLQuantizationType
TYPES = (Q.F16, Q.Q8_0, Q.Q6_K, Q.Q4_K)

option = st.builds(
    Option,
    st.sampled_from(TYPES),
    st.integers(1, 5000),
    st.floats(0, 10, allow_subnormal=False).map(lambda value: round(value, 6)),
)
matrices = st.dictionaries(
    st.sampled_from("abcdef"), st.lists(option, min_size=1, max_size=4), min_size=1
)


def size(plan: Mapping[str, Option]) -> int:
    return sum(one.size_bytes for one in plan.values())


def kl(plan: Mapping[str, Option]) -> float:
    return sum(one.kl_nats for one in plan.values())


@given(matrices, st.integers(0, 30_000), st.integers(0, 3000))
def test_a_size_is_kept_and_more_room_is_never_worse(
    options: dict[str, list[Option]], room: int, more: int
) -> None:
    """Every matrix has one of its options, the bytes fit, and more of them lower the divergence."""
    trade_off = TradeOff(options)
    plan = trade_off.within_size(trade_off.smallest_bytes + room)
    assert list(plan) == list(options)
    assert all(plan[name] in options[name] for name in options)
    assert size(plan) <= trade_off.smallest_bytes + room
    larger = trade_off.within_size(trade_off.smallest_bytes + room + more)
    assert kl(larger) <= kl(plan) + 1e-9
    assert TradeOff(options).within_size(trade_off.smallest_bytes + room) == plan


@given(matrices, st.floats(0, 60), st.floats(0, 10))
def test_a_budget_is_kept_and_a_larger_one_is_never_larger(
    options: dict[str, list[Option]], budget: float, more: float
) -> None:
    """The divergence stays within, where any plan's does; with more of it the file shrinks."""
    trade_off = TradeOff(options)
    plan = trade_off.within_kl(budget)
    least = sum(min(one.kl_nats for one in found) for found in options.values())
    assert kl(plan) <= max(budget, least) + 1e-9
    assert size(trade_off.within_kl(budget + more)) <= size(plan)


@given(matrices, st.integers(0, 30_000))
def test_no_other_plan_of_the_size_is_better(options: dict[str, list[Option]], room: int) -> None:
    """Trying all plans finds none with less divergence."""
    trade_off = TradeOff(options)
    limit = trade_off.smallest_bytes + room
    best = min(
        sum(one.kl_nats for one in plan)
        for plan in itertools.product(*options.values())
        if sum(one.size_bytes for one in plan) <= limit
    )
    assert kl(trade_off.within_size(limit)) == pytest.approx(best, abs=1e-9)


def test_sizes_of_a_real_model_waste_no_room() -> None:
    """Exact for shapes as models have them: a limit that a plan just meets is used up."""
    blocks = {f"m{number}": 3456 * (1 + number % 8) for number in range(200)} | {
        "embedding": 884736
    }
    options = {
        name: [Option(Q.Q4_0, 18 * count, 1.0), Option(Q.Q8_0, 34 * count, 0.1)]
        for name, count in blocks.items()
    }
    trade_off = TradeOff(options)
    limit = trade_off.smallest_bytes + 16 * 884736
    assert size(trade_off.within_size(limit)) > limit - 16 * 3456


def test_less_than_the_smallest_is_refused() -> None:
    """There is no plan below the smallest."""
    trade_off = TradeOff({"a": [Option(Q.Q4_K, 144, 0.1), Option(Q.F16, 512, 0.0)]})
    assert trade_off.smallest_bytes == 144
    with pytest.raises(ValueError, match="fewer than 144"):
        trade_off.within_size(143)


def test_the_curve_goes_from_the_smallest_to_the_best() -> None:
    """Sizes rise, divergences fall, and both ends are there."""
    options = [Option(Q.Q4_K, 100, 0.4), Option(Q.Q6_K, 150, 0.1), Option(Q.F16, 300, 0.0)]
    curve = TradeOff({"a": options, "b": options}).curve(50)
    sizes, divergences = zip(*curve, strict=True)
    assert curve[0] == (200, 0.8)
    assert curve[-1] == (600, 0.0)
    assert list(sizes) == sorted(sizes)
    assert list(divergences) == sorted(divergences, reverse=True)


@pytest.mark.parametrize(
    ("columns", "coarse", "expected"),
    [
        (256, False, ("F16", "Q8_0", "Q6_K", "Q5_1", "Q5_K", "Q5_0", "Q4_1", "Q4_K", "Q4_0")),
        (512, True, ("Q3_K", "Q2_K")),
        (576, True, ("F16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")),
        (48, True, ("F16",)),
    ],
)
def test_rows_divide_into_the_blocks_of_a_candidate(
    columns: int, coarse: bool, expected: Sequence[str]
) -> None:
    """Types of blocks that do not divide a row are none of its options."""
    names = tuple(type_.name for type_ in candidate_types(columns, coarse=coarse))
    assert names[-len(expected) :] == tuple(expected)


@pytest.mark.parametrize("type_", candidate_types(256, coarse=True), ids=lambda type_: type_.name)
def test_a_mixed_file_is_of_the_type_of_most_bytes(type_: Q) -> None:
    """The file type is one that can be written, whatever most matrices are."""
    other = Q.F16 if type_ != Q.F16 else Q.Q8_0
    name = file_type_of({"a": Option(type_, 900, 0.0), "b": Option(other, 800, 0.0)})
    assert name in FILE_TYPES
    assert name.startswith(type_.name.lower())
