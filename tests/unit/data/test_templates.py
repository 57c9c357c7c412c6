"""Texts of one template are near duplicates; real texts behind an instruction are not."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.words import NOUNS

from ollama_bridge.data.candidates import Candidate
from ollama_bridge.data.duplicates import remove_duplicates
from ollama_bridge.data.frames import find_frames
from ollama_bridge.data.prepare import prepare
from ollama_bridge.errors import DataError
from ollama_bridge.examples import Example, Message
from ollama_bridge.recipe.config import DataSection, TaskSection

_INSTRUCTION = (
    "You are a helpful assistant that reads what customers write. Say which of the classes it "
    "belongs to, and say no more than its name: what else you write is read by nobody.\n"
)
_SHORT_INSTRUCTION = "Say in one word which it is. "
_WHEN = ("", " please", " now", " tonight", " tomorrow", " at once", " for me", " again")
_ROOMS = ("kitchen", "bedroom", "hall", "garage", "garden", "cellar", "bathroom", "office")
_CITIES = ("Oslo", "Paris", "Rome", "Lima", "Cairo", "Delhi", "Quito", "Bern")
_SAID = (
    "I bought this for my {} and the {}",
    "the {} came with a {} and I was glad",
    "after a week the {} lost its {}",
    "nothing wrong with the {}, but the {}",
    "my {} says it is a {}",
    "would never buy the {} or the {} again",
)

_Labelled = tuple[str, str]  # a text and its label
_Write = Callable[[random.Random], _Labelled]


def _request(chooser: random.Random) -> _Labelled:
    pick = chooser.choice
    asked = {
        "home": f"turn {pick(('on', 'off'))} the {pick(('light', 'fan'))} in the {pick(_ROOMS)}",
        "weather": f"what is the weather in {pick(_CITIES)}",
        "timer": f"set a timer for {chooser.randint(1, 60)} minutes",
        "alarm": f"wake me up at {chooser.randint(5, 10)}:{pick(('00', '15', '30', '45'))}",
        "music": f"play {pick(('some', 'the best of'))} {pick(('jazz', 'rock', 'Bach', 'soul'))}",
    }
    label = pick(sorted(asked))
    return asked[label] + pick(_WHEN), label


def _command(chooser: random.Random) -> _Labelled:
    state = chooser.choice(("on", "off"))
    return f"turn {state} the {chooser.choice(NOUNS)}{chooser.choice(_WHEN)}", state


def _patient(chooser: random.Random) -> _Labelled:
    pain = chooser.choice(("typical", "atypical", "non-anginal", "asymptomatic"))
    return (
        f"Age: {chooser.randint(29, 77)}\nSex: {chooser.choice(('male', 'female'))}\n"
        f"Chest pain: {pain}\nCholesterol: {chooser.randint(126, 564)}\n"
        f"Maximum heart rate: {chooser.randint(71, 202)}\nVessels: {chooser.randint(0, 3)}"
    ), chooser.choice(("yes", "no"))


def _worker(chooser: random.Random) -> _Labelled:
    return (
        f"age: {chooser.randint(17, 80)}, "
        f"workclass: {chooser.choice(('Private', 'State-gov', 'Self-emp', 'Federal-gov'))}, "
        f"education: {chooser.choice(('Bachelors', 'HS-grad', 'Masters', '11th', 'Doctorate'))}, "
        f"occupation: {chooser.choice(('Sales', 'Tech-support', 'Craft-repair', 'Clerical'))}, "
        f"hours per week: {chooser.randint(10, 70)}, "
        f"capital gain: {chooser.choice((0, 0, 0, 2174, 7688, 15024))}"
    ), chooser.choice(("<=50K", ">50K"))


def _product(chooser: random.Random) -> _Labelled:
    label, stars, said = chooser.choice(
        (
            ("good", (4, 5), ("Love the {}", "Great {}", "Nice {}", "Best {} ever", "{} is fine")),
            ("bad", (1, 2), ("{} broke", "No {} in it", "Bad {}", "{} was gone", "Hate the {}")),
        )
    )
    product = chooser.choice(("Kindle", "Lamp", "Kettle", "Headphones", "Mouse", "Chair", "Tent"))
    review = chooser.choice(said).format(chooser.choice(NOUNS))
    return f"Product: {product}\nRating: {chooser.choice(stars)} stars\nReview: {review}", label


def _review(chooser: random.Random) -> _Labelled:
    said = (chooser.choice(_SAID).format(*chooser.choices(NOUNS, k=2)) for _ in range(2))
    return ". ".join(said), chooser.choice(("good", "bad"))


def _rated(chooser: random.Random) -> _Labelled:
    text, label = _review(chooser)
    stars = chooser.randint(6, 10) if label == "good" else chooser.randint(1, 5)
    return f"{text}. {stars} out of 10, paid {chooser.randint(5, 90)} dollars", label


def _kept(texts: list[_Labelled]) -> list[Candidate]:
    rows = []
    for number, (text, label) in enumerate(texts):
        turns = (Message("user", text), Message("assistant", label))
        rows.append(Candidate(Example(str(number), turns, str(number), label), "table", text))
    return list(remove_duplicates(rows, frames=find_frames(rows)).kept)


@pytest.mark.parametrize("instruction", [_INSTRUCTION, _SHORT_INSTRUCTION])
@pytest.mark.parametrize(
    "write", [_request, _command, _patient, _worker, _product, _review, _rated]
)
def test_real_texts_behind_an_instruction_are_kept(write: _Write, instruction: str) -> None:
    """As many as without it, or nearly: what they share is the instruction's, or a table's."""
    chooser = random.Random(1)
    texts = [write(chooser) for _ in range(400)]
    bare = len(_kept(texts))
    behind = len(_kept([(f"{instruction}{text}", label) for text, label in texts]))
    assert behind >= 0.5 * bare


_COMES = (
    "has been shipped and will arrive on day",
    "was handed to our carrier, who comes on day",
    "is late and cannot be with you before day",
    "came back to us and goes out once more on day",
)
_DAY = " of the month at your door. Please be at home from nine o'clock in the morning on."
_SORRY = "We are sorry to have to tell you that your order "
_NUMBERS_ALONE = [f"Your order {{n}} {comes} {{d}}{_DAY}" for comes in _COMES]
_WITH_NAMES = [
    f"{_SORRY}{{n}} of a {{c}} {{t}} has been delayed until {{d}} {{m}}, please confirm",
    f"{_SORRY}{{n}}, a {{c}} {{t}}, cannot be sent before {{d}} {{m}}, please say if you wait",
    f"{_SORRY}{{n}} was lost: we send another {{c}} {{t}} by {{d}} {{m}} without any cost",
    f"{_SORRY}{{n}} came back to us with its {{c}} {{t}}, and goes out again on {{d}} {{m}}",
]
_UNLIKE = [
    "Your order {n} of a {c} {t} has been delayed until {d} {m}, please confirm",
    "Invoice {n} for a {c} {t} is to be paid by {d} {m}, thank you",
    "The {c} {t} of parcel {n} was left with a neighbour on {d} {m}",
    "Ticket {n}: the {c} {t} that broke is called for again on {d} {m}",
]


def _filled(templates: list[str], count: int, *, in_turn: bool) -> list[_Labelled]:
    chooser = random.Random(2)
    texts = [
        (
            templates[number % len(templates)].format(
                n=chooser.randrange(10**4, 10**5),
                c=chooser.choice(("blue", "red", "green")),
                t=chooser.choice(("lamp", "chair", "table")),
                d=chooser.randint(1, 28),
                m=chooser.choice(("May", "June")),
            ),
            f"{number % len(templates)}",
        )
        for number in range(count)
    ]
    if not in_turn:
        chooser.shuffle(texts)
    return texts


@pytest.mark.parametrize("in_turn", [True, False])
@pytest.mark.parametrize(("templates", "count"), [(1, 400), (2, 2000), (4, 990), (4, 4001)])
@pytest.mark.parametrize("written", [_NUMBERS_ALONE, _WITH_NAMES, _UNLIKE])
def test_of_a_template_one_text_is_kept_for_each_of_its_names(
    written: list[str], templates: int, count: int, in_turn: bool
) -> None:
    """However many there are, and in whatever order: numbers do not tell them apart."""
    texts = _filled(written[:templates], count, in_turn=in_turn)
    said = {re.sub(r"\d+", "0", text) for text, _ in texts}
    # A number that a twentieth of a small file has is taken for part of what its texts end with.
    few = max(8, len(said))
    assert templates <= len(_kept(texts)) <= few <= 18 * templates + 8


def test_numbers_of_a_question_are_what_is_asked() -> None:
    """Nobody has said that its answer is that of another one."""
    rows = []
    for number, (text, _) in enumerate(_filled(_WITH_NAMES, 200, in_turn=True)):
        turns = (Message("user", text),)
        example = Example(str(number), turns, str(number))
        rows.append(Candidate(example, "table", text, is_class=False))
    assert len(remove_duplicates(rows, frames=find_frames(rows)).kept) > 150


def test_a_label_of_one_template_alone_is_refused_with_what_keeps_its_texts(tmp_path: Path) -> None:
    """What is offered works."""
    chooser = random.Random(1)
    said = sorted({_review(chooser)[0].replace(",", "") for _ in range(99)})
    sent = [_NUMBERS_ALONE[0].format(n=n, d=n % 28) for n in chooser.sample(range(10**5), 60)]
    rows = [f"{text},review" for text in said] + [f"{text},order" for text in sent]
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(["text,label", *rows]))
    data = DataSection(source="table", path=path)
    task = TaskSection(kind="classify", system="Which?", labels=("review", "order"))
    with pytest.raises(DataError, match=r"'order' has 1 usable text\(s\)") as caught:
        prepare(data, task, seed=0, out_dir=tmp_path / "out")
    assert str(caught.value.hint).endswith(
        "; --set data.near_duplicates=keep keeps the 59 near duplicates that are left out, also in "
        "different splits"
    )
    asked = data.model_copy(update={"near_duplicates": "keep"})
    found = prepare(asked, task, seed=0, out_dir=tmp_path / "all")
    assert sum(found.facts.values()) == len(rows)
