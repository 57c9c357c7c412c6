"""Comparing two lists of next tokens."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_bridge.reference import COMPARED_FLOOR, TokenScore
from ollama_bridge.verify.scores import ServedScore, compare_tops


@st.composite
def distributions(draw: st.DrawFn) -> list[float]:
    """The log-probabilities of a distribution, best first."""
    weights = draw(st.lists(st.floats(0.001, 1.0), min_size=2, max_size=25))
    return sorted((math.log(weight / sum(weights)) for weight in weights), reverse=True)


def reference_of(logprobs: list[float]) -> list[TokenScore]:
    """Tokens named by their numbers."""
    return [TokenScore(i, f"t{i}", logprob) for i, logprob in enumerate(logprobs[:20])]


def served_of(logprobs: list[float]) -> list[ServedScore]:
    """The same tokens as a daemon names them, best first."""
    named = [ServedScore(f"t{i}", logprob) for i, logprob in enumerate(logprobs)]
    return sorted(named, key=lambda score: -score.logprob)[:20]


@given(distributions())
def test_equal_lists_have_no_difference(logprobs: list[float]) -> None:
    """A distribution is at distance 0 from itself."""
    result = compare_tops(reference_of(logprobs), served_of(logprobs), special=())
    assert result.max_difference == 0.0
    assert result.kl_nats == pytest.approx(0.0, abs=1e-9)


@given(distributions(), st.data())
def test_kl_is_at_most_the_whole_kl(logprobs: list[float], data: st.DataObject) -> None:
    """The bucketed KL is never negative and never exceeds the KL of the full distributions."""
    shifts = data.draw(
        st.lists(st.floats(-0.5, 0.5), min_size=len(logprobs), max_size=len(logprobs))
    )
    moved = [logprob + shift for logprob, shift in zip(logprobs, shifts, strict=True)]
    total = math.log(sum(math.exp(logprob) for logprob in moved))
    moved = [logprob - total for logprob in moved]
    whole = sum(math.exp(p) * (p - q) for p, q in zip(logprobs, moved, strict=True))
    result = compare_tops(reference_of(logprobs), served_of(moved), special=())
    assert 0.0 <= result.kl_nats <= whole + 1e-6


@given(distributions(), st.floats(-0.05, 0.05))
def test_small_noise_never_looks_large(logprobs: list[float], noise: float) -> None:
    """Tokens that fall off either list at its end do not count as large differences."""
    moved = [logprob + noise * (-1) ** i for i, logprob in enumerate(logprobs)]
    result = compare_tops(reference_of(logprobs), served_of(moved), special=())
    assert result.max_difference <= 2 * abs(noise) + 1e-9


def test_a_moved_token_is_found_and_named() -> None:
    """The largest difference comes with its token."""
    reference = [TokenScore(1, "a", -0.5), TokenScore(2, "b", -1.5)]
    result = compare_tops(reference, [ServedScore("a", -0.6), ServedScore("b", -1.1)], special=())
    assert result.token == "b"
    assert result.max_difference == pytest.approx(0.4)


def test_a_missing_token_counts_as_the_end_of_the_list() -> None:
    """A token that the daemon does not list is at most as likely as the last that it does."""
    result = compare_tops(
        [TokenScore(1, "a", -0.1)], [ServedScore("b", -0.1), ServedScore("c", -3.0)], special=()
    )
    assert result.max_difference == pytest.approx(2.9)


def test_an_empty_list_is_no_match() -> None:
    """Neither a daemon that lists nothing nor a reference without values is equal to anything."""
    some = [math.log(0.5)]
    for wanted, found in ((some, []), ([], some)):
        result = compare_tops(reference_of(wanted), served_of(found), special=())
        assert (result.compared, result.max_difference) == (0, math.inf)
        assert result.kl_nats == math.inf


def test_tokens_without_a_text_are_paired_by_rank() -> None:
    """Special and partial tokens, which a daemon prints in different ways, still compare."""
    reference = [TokenScore(2, None, -0.1), TokenScore(7, None, -3.0), TokenScore(5, "x", -4.0)]
    served = [ServedScore("<|im_end|>", -0.1), ServedScore("", -3.0), ServedScore("x", -4.0)]
    assert compare_tops(reference, served, special=["<|im_end|>"]).max_difference == 0.0


def test_a_space_with_half_a_character_is_not_the_space() -> None:
    """Two tokens that a daemon prints alike, one of them cut, are both found."""
    reference = [TokenScore(1, " ", -1.0), TokenScore(2, " ", -2.0)]
    served = [ServedScore(" ", -1.0), ServedScore(" \ufffd", -2.0)]
    assert compare_tops(reference, served, special=()).max_difference == 0.0


def test_what_is_never_drawn_is_not_compared() -> None:
    """Tokens below the floor do not decide."""
    reference = [TokenScore(1, "a", -0.001), TokenScore(2, "b", COMPARED_FLOOR - 2)]
    served = [ServedScore("a", -0.001), ServedScore("b", COMPARED_FLOOR - 1)]
    result = compare_tops(reference, served, special=())
    assert result.max_difference == 0.0
    assert result.compared == 1
