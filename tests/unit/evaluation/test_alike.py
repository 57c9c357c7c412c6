"""Models that answer many texts alike are told of, and no others."""

from __future__ import annotations

import pytest
from fakes.listening import Listener

from ollama_bridge.evaluation.alike import tell_of_labels, tell_of_replies
from ollama_bridge.evaluation.report import ZERO_SHOT
from ollama_bridge.examples import Example, Message


def examples_of(answers: list[str]) -> list[Example]:
    return [
        Example(str(place), (Message("user", "?"), Message("assistant", answer)), "g", answer)
        for place, answer in enumerate(answers)
    ]


def test_labels_that_a_taught_model_never_says_are_told() -> None:
    """Where they are rare the accuracy does not show it. One that was not taught is not named."""
    gold = ["good"] * 7 + ["bad", "late", "lost"]
    said = {
        ZERO_SHOT: ["good"] * 9 + ["bad"],
        "teacher tuned": gold,
        "student": ["good"] * 8 + ["late", "late"],
        "control": list("abcdefghij"),
    }
    heard = Listener()
    tell_of_labels("evaluate", examples_of(gold), said, heard)
    (warning,) = heard.notes
    assert warning.startswith("student never says 'bad', 'lost', which 2 of 10 texts are; more ex")


@pytest.mark.parametrize(
    ("wanted", "said", "is_told"),
    [
        ([f"Text {n}." for n in range(10)], ["Buy it! "] * 6 + list("abcd"), True),
        ([f"Text {n}." for n in range(10)], ["Buy it!"] * 5 + list("abcde"), False),
        (["no"] * 7 + ["a", "b", "c"], ["no"] * 10, False),  # that is how the answers are
        (["no"] * 4 + list("abcdef"), ["no"] * 10, True),
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
