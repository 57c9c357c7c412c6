"""Duplicates are found exactly, and the same ones every time."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_bridge.data.candidates import Candidate
from ollama_bridge.data.duplicates import near_duplicates, remove_duplicates
from ollama_bridge.examples import Example, Message


def candidate(number: int, text: str, label: str | None = None) -> Candidate:
    messages = (Message("user", text),)
    return Candidate(Example(str(number), messages, str(number), label), "table", text)


def grams(text: str) -> frozenset[str]:
    return frozenset(text[i : i + 4] for i in range(max(1, len(text) - 3)))


def naive(keys: list[str], threshold: float) -> list[int | None]:
    """Every pair compared."""
    found: list[int | None] = []
    for place, key in enumerate(keys):
        own = grams(key)
        rivals = (
            rival
            for rival in range(place)
            if found[rival] is None
            and len(own & grams(keys[rival])) >= threshold * len(own | grams(keys[rival]))
        )
        found.append(next(rivals, None))
    return found


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.text(alphabet="abc ", min_size=1, max_size=14), max_size=30),
    st.sampled_from([0.5, 0.7, 0.8, 1.0]),
)
def test_filters_lose_no_pair(keys: list[str], threshold: float) -> None:
    """The filtered join finds what comparing all pairs finds."""
    assert near_duplicates(keys, threshold=threshold) == naive(keys, threshold)


def test_the_first_of_several_is_kept() -> None:
    """Exact and near duplicates go, and are told apart."""
    long = "the service was slow and the food was cold when it came at last"
    found = remove_duplicates(
        [candidate(0, long), candidate(1, long.upper() + "!"), candidate(2, f"{long} again")]
    )
    assert [one.example.id for one in found.kept] == ["0"]
    assert [one.example.id for one in found.exact] == ["1"]
    assert [one.example.id for one in found.near] == ["2"]


def test_contradictions_go_altogether() -> None:
    """A text under two labels teaches nothing: none of it is kept."""
    found = remove_duplicates(
        [candidate(0, "fine", "good"), candidate(1, "Fine.", "bad"), candidate(2, "other", "bad")]
    )
    assert [one.example.id for one in found.kept] == ["2"]
    assert len(found.contradictory) == 2
