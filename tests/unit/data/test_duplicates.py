"""Duplicates are found exactly, and the same ones every time."""

from __future__ import annotations

import random
import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_bridge.data.candidates import Candidate
from ollama_bridge.data.duplicates import Near, near_duplicates, remove_duplicates
from ollama_bridge.examples import Example, Message


def candidate(number: int, text: str, label: str | None = None) -> Candidate:
    messages = (Message("user", text),)
    return Candidate(Example(str(number), messages, str(number), label), "table", text)


def answered(number: int, question: str, answer: str) -> Candidate:
    messages = (Message("user", question), Message("assistant", answer))
    example = Example(str(number), messages, str(number))
    return Candidate(example, "table", f"{question}\n{answer}", is_class=False)


def grams(text: str) -> frozenset[str]:
    return frozenset(text[i : i + 4] for i in range(max(1, len(text) - 3)))


def alike(left: str, right: str, threshold: float) -> bool:
    own, other = grams(left), grams(right)
    return len(own & other) >= threshold * len(own | other)


def naive(rows: list[tuple[str, str, str]], threshold: float) -> list[Near]:
    """Every pair compared; rows of text, label and answer."""
    found: list[Near] = []
    for place, (text, label, answer) in enumerate(rows):
        rivals = [
            rival
            for rival in range(place)
            if found[rival].original is None and alike(text, rows[rival][0], threshold)
        ]
        originals = [
            rival
            for rival in rivals
            if rows[rival][1] == label and alike(answer, rows[rival][2], threshold)
        ]
        contrasts = tuple(
            rival
            for rival in rivals
            if rows[rival][1] != label and (not originals or rival < originals[0])
        )
        found.append(Near(originals[0] if originals else None, contrasts))
    return found


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(alphabet="abc ", min_size=1, max_size=14),
            st.sampled_from("xy"),
            st.sampled_from(["", "yes", "no", "yes, it is", "yes, it was"]),
        ),
        max_size=30,
    ),
    st.sampled_from([0.5, 0.7, 0.8, 1.0]),
    st.booleans(),
)
def test_filters_lose_no_pair(
    rows: list[tuple[str, str, str]], threshold: float, answers: bool
) -> None:
    """The filtered join finds what comparing all pairs finds."""
    if not answers:
        rows = [(text, label, "") for text, label, _ in rows]
    texts, labels, said = ([row[part] for row in rows] for part in range(3))
    found = near_duplicates(texts, labels=labels, answers=said, threshold=threshold)
    wanted = naive(rows, threshold)
    assert [one.original for one in found] == [one.original for one in wanted]
    if not any(said):
        assert found == wanted


def test_characters_of_every_kind_are_told_apart() -> None:
    """Beyond the basic plane, and half a surrogate pair."""
    texts = ["so so \U0001f600", "so so \U0001f601", "so so \ud83d", "x", "xy", ""]
    found = near_duplicates(texts, labels=[None] * 6, answers=[""] * 6, threshold=0.8)
    assert all(one.original is None for one in found)


def test_a_long_search_tells_how_far_it_has_come() -> None:
    """Nothing of a short one."""
    said: list[tuple[int, int]] = []

    def compare(count: int) -> None:
        texts = [f"text {number:05d} {number * number:09d}" for number in range(count)]
        near_duplicates(
            texts,
            labels=[None] * count,
            answers=[""] * count,
            threshold=0.9,
            on_progress=lambda done, total: said.append((done, total)),
        )

    compare(1000)
    assert not said
    compare(2500)
    assert said == [(1000, 2500), (2000, 2500)]


def test_what_is_held_of_a_text_is_little() -> None:
    """Less than 25 bytes a character, at the worst moment."""
    chooser = random.Random(0)
    texts = [" ".join(str(chooser.randrange(10**5)) for _ in range(35)) for _ in range(600)]
    tracemalloc.start()
    near_duplicates(texts, labels=[None] * 600, answers=[""] * 600, threshold=0.8)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 25 * sum(map(len, texts))


def test_the_first_of_several_is_kept() -> None:
    """Exact and near duplicates go, and are told apart."""
    long = "the service was slow and the food was cold when it came at last"
    found = remove_duplicates(
        [candidate(0, long), candidate(1, long.upper() + "!"), candidate(2, f"{long} again")]
    )
    assert [one.example.id for one in found.kept] == ["0"]
    assert [one.example.id for one in found.exact] == ["1"]
    assert [one.example.id for one in found.near] == ["2"]


def test_nearly_the_same_of_another_class_is_kept_beside_it() -> None:
    """What makes the difference is to be learnt, and must not lie in two splits."""
    text = "I would {}recommend this to anyone who likes old films with a slow story"
    found = remove_duplicates(
        [
            candidate(0, text.format(""), "good"),
            candidate(1, "Something else", "good"),
            candidate(2, text.format("not "), "bad"),
            candidate(3, text.format("not ") + " now", "bad"),
        ]
    )
    assert [one.example.id for one in found.kept] == ["0", "1", "2"]
    assert [one.example.group for one in found.kept] == ["0", "1", "0"]
    assert [one.example.id for one in found.near] == ["3"]
    assert found.contrasts == 1


def test_a_question_with_other_answers_is_no_duplicate() -> None:
    """Also where it is so long that its answers hardly count; answers that are alike do."""
    question = "A paragraph about a town by the sea, its harbour and its people. How many are there"
    long = "There are nine thousand in winter, and in summer there are twice as many"
    rows = [(question, "900"), (question, "901"), (f"{question}?", long), (question, f"{long}!!")]
    found = remove_duplicates([answered(number, *row) for number, row in enumerate(rows)])
    assert [one.example.id for one in found.kept] == ["0", "1", "2"]
    assert [one.example.id for one in found.exact] == ["3"]
    again = remove_duplicates([answered(0, question, long), answered(1, question, f"{long} now")])
    assert [one.example.id for one in again.near] == ["1"]


def test_contradictions_go_altogether() -> None:
    """A text under two labels teaches nothing: none of it is kept."""
    found = remove_duplicates(
        [candidate(0, "fine", "good"), candidate(1, "Fine.", "bad"), candidate(2, "other", "bad")]
    )
    assert [one.example.id for one in found.kept] == ["2"]
    assert len(found.contradictory) == 2
