"""Models that answer many texts alike are told of, and no others."""

from __future__ import annotations

import pytest
from fakes.listening import Listener

from ollama_bridge.answer_text import with_thought
from ollama_bridge.evaluation.alike import tell_of_labels, tell_of_replies
from ollama_bridge.evaluation.report import TEACHER, TUNED, ZERO_SHOT
from ollama_bridge.examples import Example, Message


def examples_of(answers: list[str]) -> list[Example]:
    return [
        Example(str(place), (Message("user", "?"), Message("assistant", answer)), "g", answer)
        for place, answer in enumerate(answers)
    ]


def test_labels_that_a_taught_model_never_says_are_told() -> None:
    """Where they are rare the accuracy does not show it. One that was not taught is not named."""
    gold = ["good"] * 20 + ["bad"] * 3 + ["late"] * 3 + ["lost"] * 4
    said = {
        ZERO_SHOT: ["good"] * 29 + ["bad"],
        TEACHER: ["good"] * 29 + ["bad"],
        TUNED: gold,
        "student": ["good"] * 28 + ["late"] * 2,
        "control": [f"other {number}" for number in range(30)],
    }
    heard = Listener()
    tell_of_labels("evaluate", examples_of(gold), said, heard)
    (warning,) = heard.notes
    assert warning.startswith("student never says 'bad', 'lost', which 7 of 30 texts are; more ex")


def test_a_label_of_few_texts_may_be_missed() -> None:
    """Of many labels, a good model has both texts of some wrong."""
    gold = ["good"] * 16 + ["late"] * 2 + ["lost"] * 2
    heard = Listener()
    tell_of_labels("evaluate", examples_of(gold), {"student": ["good"] * 18 + gold[18:]}, heard)
    assert heard.notes == []


def test_of_many_labels_some_are_named() -> None:
    """The sentence stays one that is read."""
    gold = [f"label {number % 40}" for number in range(120)]
    said = {"student": ["label 0", "label 1", "label 2"] * 40}
    heard = Listener()
    tell_of_labels("evaluate", examples_of(gold), said, heard)
    (warning,) = heard.notes
    assert "'label 6', 'label 7' and 32 more, which 111 of 120 texts are" in warning


@pytest.mark.parametrize(
    ("wanted", "said", "is_told"),
    [
        ([f"Text {n}." for n in range(10)], ["Buy it! "] * 6 + list("abcd"), True),
        ([f"Text {n}." for n in range(10)], ["Buy it!"] * 5 + list("abcde"), False),
        (["no"] * 7 + ["a", "b", "c"], ["no"] * 10, False),  # that is how the answers are
        (["no"] * 4 + list("abcdef"), ["no"] * 10, True),
        ([with_thought("no", f"{n} is odd.") for n in range(10)], ["no"] * 10, False),
        ([f"Text {n}." for n in range(10)], [""] * 10, False),  # the report counts these
        ([f"Text {n}." for n in range(9)], ["Buy it!"] * 9, False),
    ],
)
def test_a_model_that_answers_most_texts_alike_is_told(
    wanted: list[str], said: list[str], *, is_told: bool
) -> None:
    """It ends its answers and repeats nothing within them, so no other number shows it."""
    heard = Listener()
    tell_of_replies("served", examples_of(wanted), {"teacher": wanted, "student": said}, heard)
    assert [note.partition(" ")[0] for note in heard.notes] == ["student"] * is_told


def test_a_long_answer_is_shown_by_its_begin() -> None:
    """The sentence stays one that is read."""
    heard, said = Listener(), {"student": ["ab" * 50] * 10}
    tell_of_replies("served", examples_of(["x"] * 10), said, heard)
    (warning,) = heard.notes
    begin = f"student answers 10 of 10 texts with '{'ab' * 30}...': it tells little apart; more"
    assert warning.startswith(begin)
