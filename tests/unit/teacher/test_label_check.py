"""A teacher that cannot label for its student is told before anything is written or trained."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.models import build_tiny_checkpoint
from fakes.trainable import commit, corpus_of, sentiment_examples, tiny_corpus
from fakes.turn_ends import build_speaker
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import normalizers

from ollama_bridge.build_checks import check_start
from ollama_bridge.client import Client
from ollama_bridge.errors import DataError, ModelError, OllamaBridgeError, TrainingError
from ollama_bridge.examples import Message, read_examples
from ollama_bridge.pipeline import _Build
from ollama_bridge.recipe.config import Recipe, SoftLabelsSection
from ollama_bridge.recipe.loading import load_recipe
from ollama_bridge.reporting import NullReporter
from ollama_bridge.storage.artifacts import Checkpoint, Corpus
from ollama_bridge.teacher.vocabularies import check_can_label


def checkpoint(folder: Path, fill: Callable[[Path], object]) -> Checkpoint:
    return commit(Checkpoint, folder, fill, name=folder.name)


@pytest.fixture
def teacher(tmp_path: Path) -> Checkpoint:
    return checkpoint(tmp_path / "teacher", lambda path: build_tiny_checkpoint(path, seed=1))


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return tiny_corpus(tmp_path / "corpus")


def recipe_of(*overrides: str) -> Recipe:
    """Whose student is what it starts with, whole."""
    whole = ["student.layers=null", "student.model=./other"]
    whole.append("modelfile.parameters.num_predict=40")
    return load_recipe("sentiment-quick", overrides=[*whole, *overrides])


def check(student: Checkpoint, teacher: Checkpoint, corpus: Corpus, *overrides: str) -> None:
    check_start(recipe_of(*overrides), student, corpus, NullReporter(), teacher=teacher)


def letters(folder: Path) -> None:
    """One token a byte: nothing begins where a word's second token does."""
    build_tiny_checkpoint(folder, vocab_size=259)


def lower_case(folder: Path) -> None:
    build_tiny_checkpoint(folder, vocab_size=300)
    change(folder, normalizer=normalizers.Lowercase())


def unreadable(folder: Path) -> None:
    build_tiny_checkpoint(folder, vocab_size=300)
    change(folder, decoder=None)


def change(folder: Path, **parts: object) -> None:
    tokenizer = RawTokenizer.from_file(str(folder / "tokenizer.json"))
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    tokenizer.save(str(folder / "tokenizer.json"))


def shouting(folder: Path) -> None:
    build_speaker("shouting", folder)


@pytest.mark.parametrize(
    ("fill", "error", "message"),
    [
        (letters, TrainingError, "text alone"),
        (unreadable, ModelError, "cannot be read as bytes"),
        (shouting, TrainingError, "has a distribution of the teacher's"),
    ],
)
def test_a_student_that_cannot_be_labelled_for(
    teacher: Checkpoint,
    corpus: Corpus,
    tmp_path: Path,
    fill: Callable[[Path], None],
    error: type[OllamaBridgeError],
    message: str,
) -> None:
    """By tokenizers alone; without soft labels, or with a daemon's, nobody minds."""
    student = checkpoint(tmp_path / "student", fill)
    with pytest.raises(error, match=message):
        check(student, teacher, corpus)
    check(student, teacher, corpus, "distill.kd_weight=0")


@pytest.mark.parametrize("given", [True, False])
def test_a_student_that_cannot_say_an_answer(
    teacher: Checkpoint, corpus: Corpus, tmp_path: Path, *, given: bool
) -> None:
    """Of the data's, unless the teacher writes them again."""
    student = checkpoint(tmp_path / "student", lower_case)
    examples = [
        replace(one, messages=(*one.messages[:-1], Message("assistant", "Positive")))
        for one in read_examples(corpus.split_path("train"))
    ]
    loud = corpus_of(tmp_path / "loud", {"train": examples})
    expected = (
        pytest.raises(TrainingError, match="cannot write answer 0")
        if given
        else contextlib.nullcontext()
    )
    with expected:
        check_can_label(
            teacher, student, loud, SoftLabelsSection(), max_length=512, answers_given=given
        )


def test_answers_that_were_written(
    teacher: Checkpoint, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only they tell is told before the teacher is tuned."""
    monkeypatch.setenv("OLLAMA_BRIDGE_HOME", str(tmp_path / "home"))
    letters(tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    settings = ("teacher.answers=daemon", "teacher.rewrite=true", "teacher.tune={}")
    check(checkpoint(tmp_path / "student", letters), teacher, corpus, *settings)
    with Client() as client:
        build = _Build(recipe_of(*settings), tmp_path / "run", client, NullReporter())
        with pytest.raises(TrainingError, match="text alone"):
            build.tune(teacher, corpus)
    assert not (tmp_path / "run" / "teacher").exists()


def test_examples_that_are_all_too_long(
    teacher: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    """Said by the limit that leaves them out, where the vocabularies can be compared at all."""
    for fill, expected in (
        (letters, pytest.raises(DataError, match=r"distill\.max_length is 16 tokens")),
        (unreadable, pytest.raises(ModelError, match="cannot be read as bytes")),
    ):
        student = checkpoint(tmp_path / fill.__name__, fill)
        with expected:
            check(student, teacher, corpus, "distill.max_length=16")


def test_a_corpus_without_answers(teacher: Checkpoint, tmp_path: Path) -> None:
    """What the teacher will write nobody knows; that a tokenizer cannot be read, is known."""
    examples = [
        replace(one, messages=one.messages[:-1]) for one in sentiment_examples(24, name="train")
    ]
    corpus = corpus_of(tmp_path / "unanswered", {"train": examples})
    check(checkpoint(tmp_path / "letters", letters), teacher, corpus)
    with pytest.raises(ModelError, match="cannot be read as bytes"):
        check(checkpoint(tmp_path / "unreadable", unreadable), teacher, corpus)
