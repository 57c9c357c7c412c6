"""Splits that a file has are taken as they are, and nothing that is held out is trained on."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from fakes.listening import Listener
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ollama_bridge.data.chats.messages import collect_messages
from ollama_bridge.data.cleaning import text_key
from ollama_bridge.data.prepare import prepare
from ollama_bridge.errors import DataError
from ollama_bridge.examples import Example, read_examples
from ollama_bridge.recipe.config import DataSection, TaskSection
from ollama_bridge.storage.artifacts import Corpus

SENTIMENT = TaskSection(
    kind="classify", system="Is it positive or negative?", labels=("positive", "negative")
)
REPLY = TaskSection(kind="reply", system="Answer.")
_WORDS = ["film", "book", "tea", "cake", "band", "song", "game", "shoe", "road", "boat", "lamp"]


def sentences(count: int) -> list[str]:
    """No two are alike."""
    chooser = random.Random(0)
    return [
        f"{' '.join(chooser.choices(_WORDS, k=9))} {chooser.randrange(10**9)}" for _ in range(count)
    ]


def write(folder: Path, rows: Sequence[tuple[str, str, str]]) -> Path:
    """Rows of text, label and split."""
    path = folder / "mine.csv"
    path.write_text("\n".join(["text,label,split", *map(",".join, rows)]))
    return path


def splits_of(names: Sequence[str]) -> list[tuple[str, str, str]]:
    labels = ["positive" if n % 2 else "negative" for n in range(len(names))]
    return list(zip(sentences(len(names)), labels, names, strict=True))


def run(path: Path, task: TaskSection = SENTIMENT, **more: object) -> tuple[Corpus, Listener]:
    heard = Listener()
    asked = {"source": "table", "path": path, "split_col": "split", **more}
    data = DataSection.model_validate(asked)
    out = path.parent / f"out-{len(list(path.parent.iterdir()))}"
    return prepare(data, task, seed=0, out_dir=out, reporter=heard), heard


def parts_of(corpus: Corpus) -> dict[str, list[Example]]:
    names = ("train", "validation", "test")
    return {name: list(read_examples(corpus.split_path(name))) for name in names}


def numbers(examples: Sequence[Example]) -> list[int]:
    return [int(one.id.partition("-")[2]) for one in examples]


def test_the_files_splits_are_taken(tmp_path: Path) -> None:
    """By any of their names, in any case; how many of a small file are drawn is no limit."""
    names = ["Train", "training", "train ", "valid", "DEV", "test", "holdout", "Testing"] * 10
    corpus, heard = run(write(tmp_path, splits_of(names)))
    assert corpus.facts == {"train": 30, "validation": 20, "test": 30}
    places = {
        name: {(number - 2) % 8 for number in numbers(one)}
        for name, one in parts_of(corpus).items()
    }
    assert places == {"train": {0, 1, 2}, "validation": {3, 4}, "test": {5, 6, 7}}
    assert "splits of column 'split': 30 in train, 20 in validation, 30 in test" in heard.notes
    assert not heard.warnings
    assert not any("too few" in note for note in heard.notes)


@pytest.mark.parametrize("missing", ["validation", "test"])
def test_a_split_that_the_file_lacks_is_drawn_from_its_train(tmp_path: Path, missing: str) -> None:
    """By the seed and with every label; the other one is what the file says."""
    own = "test" if missing == "validation" else "validation"
    path = write(tmp_path, splits_of(["train"] * 200 + [own] * 40))
    corpus, heard = run(path)
    parts = parts_of(corpus)
    assert numbers(parts[own]) == list(range(202, 242))
    assert len(parts[missing]) == (20 if missing == "validation" else 40)
    assert {one.label for one in parts[missing]} == {"positive", "negative"}
    assert len(parts["train"]) + len(parts[missing]) == 200
    assert any(f"has no {missing}: drawn from train" in note for note in heard.notes)
    again, _ = run(path)
    assert again.manifest.files == corpus.manifest.files


def test_a_file_of_train_alone_is_split_as_without_the_column(tmp_path: Path) -> None:
    """Nothing of it is held out yet."""
    path = write(tmp_path, splits_of(["train"] * 300))
    corpus, _ = run(path)
    without, _ = run(path, split_col=None)
    assert parts_of(corpus) == parts_of(without)
    assert corpus.manifest.work.key != without.manifest.work.key


def test_without_the_column_the_corpus_has_the_key_that_it_had(tmp_path: Path) -> None:
    """Nobody prepares their data again for an option that they do not use."""
    corpus, _ = run(write(tmp_path, splits_of(["train"] * 40)), split_col=None)
    settings_of_data = corpus.manifest.work.settings["data"]
    assert isinstance(settings_of_data, dict)
    assert "split_col" not in settings_of_data


def test_what_is_held_out_is_taken_out_of_train(tmp_path: Path) -> None:
    """Wherever in the file, the same or nearly so; of test and validation test keeps it."""
    rows = splits_of(["train"] * 40 + ["validation"] * 10 + ["test"] * 10)
    (tested, label, _), (validated, other, _) = rows[-1], rows[45]
    again = [(f"{tested.upper()}!", label, "train"), (f"{validated} ", other, "train")]
    nearly = [(f"{tested} too", label, "train"), (tested, label, "validation")]
    path = write(tmp_path, [*again, *nearly, *rows])
    corpus, heard = run(path)
    assert corpus.facts == {"train": 40, "validation": 10, "test": 10}
    assert min(numbers(one)[0] for one in parts_of(corpus).values()) == 6  # the rows before went
    (warning,) = heard.warnings
    assert warning.startswith("3 of train and 1 of validation are left out: another split holds ")


def test_a_question_is_in_one_split_whatever_its_answers(tmp_path: Path) -> None:
    """Also where the file has it in two, and so is a group: the held-out rows stay."""
    asked = sentences(60)
    lines = [
        {"text": text, "label": f"{text[::-1]}", "split": "test" if n < 20 else "train", "of": n}
        for n, text in enumerate(asked)
    ]
    lines.append({"text": asked[0], "label": "none of it", "split": "train", "of": 1000})
    lines.append({"text": "quite another thing", "label": "yes", "split": "train", "of": 1})
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    corpus, heard = run(path, REPLY, group_col="of")
    parts = parts_of(corpus)
    assert len(parts["test"]) == 20
    assert len(parts["train"]) + len(parts["validation"]) == 40
    assert not {61, 62} & {*numbers(parts["train"]), *numbers(parts["validation"])}
    (warning,) = heard.warnings
    assert warning.startswith("2 of train are left out: ")
    card = json.loads((corpus.path / "card.json").read_text())
    assert card["left_out"]["belongs to a text that is held out"] == {"table": 2}
    assert warning in card["notes"]


# The same, nearly the same, and the same but for a number.
_TEXTS = [form.format(text) for text in sentences(12) for form in ("{}", "{}!", "{} too", "{} 5")]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(_TEXTS),
            st.sampled_from(["positive", "negative"]),
            st.sampled_from(["train", "validation", "test"]),
        ),
        min_size=20,
        max_size=60,
    ),
    st.booleans(),
    st.booleans(),
)
def test_no_text_and_no_document_that_is_held_out_is_trained_on(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str, str]],
    is_free: bool,
    keeps_near: bool,
) -> None:
    """Whatever the file repeats where, and each text is in the split of one of its rows."""
    if not is_free:  # of several labels a text has none
        rows = [
            (text, f"{'posi' if len(text) % 2 else 'nega'}tive", name) for text, _, name in rows
        ]
    path = write(tmp_path_factory.mktemp("rows"), rows)
    near = "keep" if keeps_near else "leave_out"
    try:
        corpus, _ = run(path, REPLY if is_free else SENTIMENT, near_duplicates=near)
    except DataError:
        return  # too little is left of a split
    said = Counter((text_key(text), split) for text, _, split in rows)
    parts = parts_of(corpus)
    texts = {
        name: {text_key(one.messages[1].content) for one in part} for name, part in parts.items()
    }
    groups = {name: {one.group for one in part} for name, part in parts.items()}
    for held_out, other in (("test", "train"), ("validation", "train"), ("test", "validation")):
        assert not texts[held_out] & texts[other]
        assert not groups[held_out] & groups[other]
    own = {split for *_, split in rows}
    assert all(said[text, name] for name in own & {"test", "validation"} for text in texts[name])


def test_limits_hold_for_the_files_splits(tmp_path: Path) -> None:
    """At most so many of each, by the seed, and the option that lifts each is said.

    That scores are of a part of the test set is a warning, which the data card keeps.
    """
    path = write(tmp_path, splits_of(["train"] * 60 + ["validation"] * 30 + ["test"] * 40))
    limits = {"max_examples": 50, "validation_examples": 10, "test_examples": 20}
    corpus, heard = run(path, **limits)
    assert corpus.facts == {"train": 50, "validation": 10, "test": 20}
    assert min(numbers(parts_of(corpus)["test"])) > 91
    for said in (
        "20 of the file's 40 test examples will be scored, by the seed: scores are of a sample of ",
        "20 of 30 validation examples are left out by data.validation_examples: --set ",
        "10 of 60 training examples are left out by data.max_examples: --set ",
    ):
        assert any(note.startswith(said) for note in heard.notes)
    (warning,) = (note for note in heard.warnings if "a sample" in note)
    assert warning.endswith("; --set data.test_examples=40 scores all")
    assert warning in json.loads((corpus.path / "card.json").read_text())["notes"]


def test_a_row_of_no_split_is_named(tmp_path: Path) -> None:
    """With its number and value; one that is empty too."""
    rows = splits_of(["train", "unsupervised", "test", "", "valid"])
    with pytest.raises(DataError, match="2 problem") as caught:
        run(write(tmp_path, rows))
    assert "row 3: split is 'unsupervised'" in str(caught.value)
    assert "row 5: split is empty" in str(caught.value)
    assert "validation (valid, val, dev, eval)" in str(caught.value.hint)
    with pytest.raises(DataError, match="no column 'splitt'; did you mean 'split'") as caught:
        run(write(tmp_path, rows), split_col="splitt")
    assert "--set 'data.split_col=\"split\"'" in str(caught.value.hint)


def test_a_split_without_usable_texts_is_refused(tmp_path: Path) -> None:
    """It is no split that the file lacks: nothing is drawn for it."""
    rows = splits_of(["train"] * 20)
    path = write(tmp_path, [*rows, (rows[0][0] * 99, "positive", "test")])
    with pytest.raises(DataError, match="no usable text in test"):
        run(path)
    with pytest.raises(DataError, match="no usable text in train"):
        run(write(tmp_path, splits_of(["test"] * 20)))


def chats(names: Sequence[str | None]) -> str:
    lines = []
    for text, split in zip(sentences(len(names)), names, strict=True):
        asked, answered = {"role": "user", "content": text}, {"role": "assistant", "content": "So"}
        lines.append({"messages": [asked, answered], **({"part": split} if split else {})})
    return "\n".join(map(json.dumps, lines))


def test_conversations_have_a_field_of_it(tmp_path: Path) -> None:
    """It is taken as a column is; where nobody asks for it, that is said."""
    path = tmp_path / "chats.jsonl"
    path.write_text(chats(["train"] * 30 + ["validation"] * 6 + ["test"] * 4))
    corpus, _ = run(path, REPLY, source="messages", split_col="part")
    assert corpus.facts == {"train": 30, "validation": 6, "test": 4}
    assert numbers(parts_of(corpus)["test"]) == [37, 38, 39, 40]
    unread = collect_messages(path, DataSection(source="messages", path=path), REPLY)
    assert unread.warnings[0].endswith(": --split-col part (in a recipe: data.split_col)")
    path.write_text(chats(["train", None, "test"]))
    with pytest.raises(DataError, match="line 2: part is empty"):
        run(path, REPLY, source="messages", split_col="part")


def test_texts_that_are_fetched_have_no_such_column() -> None:
    """The option would hold out nothing."""
    with pytest.raises(ValidationError, match="a vader source has no such column"):
        DataSection(source="vader", split_col="split")
