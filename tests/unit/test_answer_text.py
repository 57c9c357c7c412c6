"""What the text of an answer says."""

from __future__ import annotations

import pytest

from ollama_bridge.answer_text import (
    behind_prompt,
    says,
    told_apart_by_case,
    with_thought,
    without_thought,
)


@pytest.mark.parametrize(
    ("answer", "says_it"),
    [
        ("positive", True),
        (" Positive. ", True),
        ("**Positive**", True),
        ("Answer: positive", True),
        ("The final answer is: **positive**.", True),
        ("The sentiment is positive.", True),
        ("not positive", False),
        ("positive or negative", False),
        ("negative", False),
        ("", False),
    ],
)
def test_an_answer_says_a_label_or_not(answer: str, says_it: bool) -> None:
    """Marks and case around it do not count, other words do."""
    assert says(answer, "positive") is says_it


@pytest.mark.parametrize(
    ("answer", "label", "says_it"),
    [
        ("**-12.**", "-12", True),
        ("Answer: -12", "-12", True),
        ("-12", "12", False),
        ("12", "-12", False),
        ("- 12", "12", True),
        ("112", "12", False),
    ],
)
def test_a_minus_belongs_to_its_number(answer: str, label: str, says_it: bool) -> None:
    """It is no mark around a word: a wrong sign is a wrong answer."""
    assert says(answer, label) is says_it


@pytest.mark.parametrize(
    ("answer", "label", "says_it"),
    [
        ("A+", "A", False),
        ("A+", "A-", False),
        ("A*", "A", False),
        ("**a+.**", "A+", True),
        ("C++", "C#", False),
        ("C++.", "c++", True),
        ("# C#", "C#", True),
        ("5", ".5", False),
        ("-.5", "5", False),
        ("-.5.", "-.5", True),
        ("50%", "50", False),
        ("$50", "50", False),
        ("$50$", "50", True),
        ("-", "+", False),
        ("+", "+", True),
        ("👍", "👎", False),
        ("?!", "...", False),
        ("?", "?", True),
        ("(b)", "b", True),
        ("“Very  good.”", "very good", True),
        ("> _positive_", "positive", True),
        ("`positive`, ", "positive", True),
    ],
)
def test_signs_that_mean_something_count(answer: str, label: str, says_it: bool) -> None:
    """Only marks around an answer are left aside, and what is only marks says nothing else."""
    assert says(answer, label) is says_it


@pytest.mark.parametrize(
    ("answer", "says_it"),
    [("US", True), ("**US.**", True), ("answer: US", True), ("us", False), ("Us", False)],
)
def test_a_label_with_a_twin_of_other_case_is_said_in_its_own(answer: str, says_it: bool) -> None:
    """Another case means the other label, or neither; the words in front of it have any."""
    assert told_apart_by_case(["US", "them", "us", "you"]) == {"US", "us"}
    assert says(answer, "US", in_its_case=True) is says_it


@pytest.mark.parametrize("answer", ["42", "", "a\n\nb"])
def test_a_thought_is_told_from_the_answer(answer: str) -> None:
    """Also where the prompt has opened it, and where there is none."""
    whole = with_thought(answer, " 40 + 2.\n")
    assert whole.startswith("<think>\n40 + 2.\n</think>\n\n")
    assert without_thought(whole) == answer
    assert without_thought(whole.removeprefix("<think>")) == answer
    assert without_thought(answer) == answer


@pytest.mark.parametrize(
    ("prompt", "answer", "sent"),
    [
        ("Q:", "yes", "Q:ye"),
        ("Q:", "<think>\nHm.\n</think>\n\nyes", "Q:<think>\nHm.\n</think>\n\nye"),
        ("Q:<think>\n", "<think>\nHm.\n</think>\n\nyes", "Q:<think>\nHm.\n</think>\n\nye"),
        ("Q:<think>", "Hm.</think>yes", "Q:<think>Hm.</think>ye"),
        ("Q:<think>\n", "yes", "Q:<think>\n\n</think>\n\nye"),
        ("Q:<think>\n\n</think>\n\n", "yes", "Q:<think>\n\n</think>\n\nye"),
    ],
)
def test_an_answer_goes_on_where_the_prompt_ends(prompt: str, answer: str, sent: str) -> None:
    """A thought in the one that it opened; an answer without one behind the end of it."""
    assert behind_prompt(prompt, answer, length=len(answer) - 1) == sent
