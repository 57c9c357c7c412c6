"""Texts that go round in circles are found, and others left alone."""

from __future__ import annotations

import pytest

from ollama_bridge.repetition import is_looping, repeated_share


@pytest.mark.parametrize(
    "text",
    [
        "thank you thank you thank you thank you",
        "good good good good",
        "We are sorry. " + "We will make it right for you. " * 3,
    ],
)
def test_loops_are_found(text: str) -> None:
    """A phrase said again and again is a loop."""
    assert is_looping(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "It was very, very, very good.",
        "Well ........................ no",
        "Thank you for your review. We are sorry that the player broke. Thank you again.",
        "1, 2, 3, 4, 5, 6, 7, 8",
        "-------------------------------",
    ],
)
def test_ordinary_texts_are_none(text: str) -> None:
    """Emphasis, lists and drawn lines are no loops."""
    assert not is_looping(text)


def test_repeated_share_counts_second_sightings() -> None:
    """Half of the 3-grams of a text said twice with one seam were seen before, less the seam's."""
    assert repeated_share("a b c") == 0.0
    assert repeated_share("a b c a b c") == pytest.approx(1 / 4)
    assert repeated_share("") == 0.0
