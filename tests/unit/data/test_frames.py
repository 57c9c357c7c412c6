"""What most texts share is found, and what is a text's own is left."""

from __future__ import annotations

import random

import pytest
from fakes.words import NOUNS

from ollama_bridge.data.candidates import Candidate
from ollama_bridge.data.duplicates import remove_duplicates
from ollama_bridge.data.frames import find_frames
from ollama_bridge.examples import Example, Message

_INSTRUCTION = (
    "You are a helpful assistant that reads what customers write. Say whether the review is a "
    "positive or a negative one. Answer with one word, positive or negative, and say no more "
    "than this word.\nReview: "
)
_OTHER = (
    "You are a helpful assistant that reads what customers write. Say whether somebody would buy "
    "it again. Answer with one word, positive for those who would, negative for all others, and "
    "do not say why.\nText: "
)
_END = (
    "\n\nWas what stands above written by a customer who is content, or by one who is not? Answer "
    "with one word, positive or negative, and with nothing else, in lower case.\nAnswer:"
)


def reviews(count: int) -> list[str]:
    chooser = random.Random(0)
    return list(dict.fromkeys(" ".join(chooser.choices(NOUNS[:12], k=6)) for _ in range(count)))


def of_class(number: int, text: str, label: str = "positive") -> Candidate:
    turns = (Message("user", text), Message("assistant", label))
    return Candidate(Example(str(number), turns, str(number), label), "table", text)


def free(number: int, text: str, answer: str) -> Candidate:
    turns = (Message("user", text), Message("assistant", answer))
    example = Example(str(number), turns, str(number))
    return Candidate(example, "table", f"{text}\n{answer}", is_class=False)


@pytest.mark.parametrize(
    ("begin", "end"), [(_INSTRUCTION, ""), ("", _END), (_INSTRUCTION, _END), ("Text: ", _END)]
)
def test_an_instruction_makes_no_duplicates(begin: str, end: str) -> None:
    """The same texts go as without it, and one that nearly repeats another is among them."""
    texts = reviews(200)
    texts.append(f"{texts[0]} tea")
    plain = [of_class(number, text) for number, text in enumerate(texts)]
    framed = [of_class(number, f"{begin}{text}{end}") for number, text in enumerate(texts)]
    frames = find_frames(framed)
    assert find_frames(plain) is None
    assert frames is not None
    assert {frames.own_text(one).removeprefix("Text: ") for one in framed} == set(texts)
    wanted = remove_duplicates(plain)
    found = remove_duplicates(framed, frames=frames)
    assert [one.example.id for one in found.near] == [one.example.id for one in wanted.near] != []
    assert [one.example.group for one in found.kept] == [one.example.group for one in wanted.kept]
    assert len(remove_duplicates(framed).near) > 5 * len(found.near)


def test_the_same_text_under_another_instruction_stays_beside_it() -> None:
    """Two tasks in one file: their instructions begin alike, and both answers are to be learnt."""
    texts = reviews(60)
    rows = [f"{instruction}{text}" for text in texts for instruction in (_INSTRUCTION, _OTHER)]
    candidates = [of_class(number, row) for number, row in enumerate(rows)]
    frames = find_frames(candidates)
    assert frames is not None
    assert {frames.own_text(one) for one in candidates} == set(texts)
    found = remove_duplicates(candidates, frames=frames)
    assert not found.near
    assert found.contrasts == len(texts)
    assert len({one.example.group for one in found.kept}) == len(texts)


def test_structured_answers_make_no_duplicates() -> None:
    """Nor do they where the questions have an instruction."""
    answer = (
        '{{"sentiment": "{}", "language": "en", "needs an answer": false, "priority": "normal"}}'
    )
    rows = [
        free(number, text[:16], answer.format("good" if number % 2 else "bad"))
        for number, text in enumerate(reviews(200))
    ]
    found = remove_duplicates(rows, frames=find_frames(rows))
    short = {one.example.messages[0].content for one in rows}
    assert len(found.kept) > 0.9 * len(short) > 1.3 * len(remove_duplicates(rows).kept)


def test_what_most_texts_share_is_shown_of_it() -> None:
    """Not the longest: a canned answer is a few of them."""
    canned = "We are sorry to hear that, and shall send you another one at once, free of charge."
    answers = [f"Thank you for asking us! It is {text}." for text in reviews(180)] + [canned] * 20
    rows = list(map(free, range(200), reviews(200), answers))
    frames = find_frames(rows)
    assert frames is not None
    (note,) = frames.notes()
    assert "200 of 200 answers begin or end as many do ('Thank you for asking us! It is" in note


def test_what_is_sent_often_is_no_instruction() -> None:
    """Of a message that a third of a file is, but for a number, one is enough."""
    often = [f"thank you for your order, we will send it soon: number {n}" for n in range(100)]
    candidates = [of_class(number, text) for number, text in enumerate([*reviews(200), *often])]
    assert find_frames(candidates) is None


def test_words_are_not_cut() -> None:
    """What is the texts' own begins with a word, also where many of these begin alike."""
    numbers = [f"Is the following number a prime? {n}" for n in range(100, 160)]
    frames = find_frames([of_class(number, text) for number, text in enumerate(numbers)])
    assert frames is not None
    assert frames.questions is not None
    assert list(map(frames.questions.without, numbers)) == [str(n) for n in range(100, 160)]


def test_a_conversation_is_compared_without_what_its_question_begins_with() -> None:
    """Also a question that is the instruction alone, and a script without spaces."""
    instruction = (
        "\u8bf7\u9605\u8bfb\u4e0b\u9762\u7684\u8bc4\u8bba\u5e76\u5224\u65ad\u60c5\u611f" * 3
    )
    texts = [f"{instruction}\uff1a{text}" for text in reviews(40)]
    turns = (
        Message("user", instruction + "\uff1a"),
        Message("assistant", "?"),
        Message("user", "I am asking about tea."),
    )
    whole = Candidate(Example("x", turns, "x"), "messages", "", is_class=False)
    frames = find_frames([*(of_class(n, text) for n, text in enumerate(texts)), whole])
    assert frames is not None
    assert frames.own_text(of_class(0, texts[3])) == reviews(40)[3]
    assert frames.own_text(whole) == "\n?\nI am asking about tea."


@pytest.mark.parametrize(
    ("own", "is_told_apart"),
    [("Where is", False), ("\u5f88\u597d", False), ("\u8fd9\u90e8\u7535\u5f71\u5f88\u597d", True)],
)
def test_a_number_or_a_name_does_not_tell_texts_apart(own: str, is_told_apart: bool) -> None:
    """They are compared whole, and so are their answers."""
    texts = reviews(60)
    framed = [free(n, f"{_INSTRUCTION}{text}", f"It is {text}.") for n, text in enumerate(texts)]
    short = free(100, f"{_INSTRUCTION}{own} 4821", "It is 4821.")
    frames = find_frames([*framed, short])
    assert frames is not None
    assert frames.own_text(framed[0]) == f"{texts[0]}\nIt is {texts[0]}."
    whole = f"{_INSTRUCTION}{own} 4821\nIt is 4821."
    assert frames.own_text(short) == (f"{own} 4821\nIt is 4821." if is_told_apart else whole)


def test_short_questions_of_their_own_are_told_apart() -> None:
    """Where nothing is cut from them; what their answers share is none of theirs."""
    answer = '{{"wants": "music", "device": "the loudspeaker in the kitchen", "title": "{}"}}'
    titles = list(dict.fromkeys(text[:9].strip() for text in reviews(60)))
    rows = [free(n, f"play {title}", answer.format(title)) for n, title in enumerate(titles)]
    frames = find_frames(rows)
    assert frames is not None
    assert not remove_duplicates(rows, frames=frames).near
    assert remove_duplicates(rows).near


def test_rows_of_a_table_behind_an_instruction_are_different_texts() -> None:
    """Their names are in all of them; their values alone differ, and are what is learnt from."""
    chooser = random.Random(1)

    def row() -> str:
        pain = chooser.choice(["typical", "atypical", "non-anginal", "asymptomatic"])
        return (
            f"{_INSTRUCTION}Age: {chooser.randint(29, 77)}\n"
            f"Sex: {chooser.choice(['male', 'female'])}\n"
            f"Chest pain: {pain}\nCholesterol: {chooser.randint(126, 564)}\n"
            f"Maximum heart rate: {chooser.randint(71, 202)}\nVessels: {chooser.randint(0, 3)}"
        )

    rows = [of_class(number, row(), chooser.choice(["yes", "no"])) for number in range(300)]
    assert len(remove_duplicates(rows, frames=find_frames(rows)).kept) > 200
