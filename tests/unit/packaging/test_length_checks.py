"""What is too long is told before anything is trained."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes.trainable import corpus_of, tiny_base, tiny_corpus

from ollama_bridge.errors import DataError
from ollama_bridge.examples import Example, Message, read_examples
from ollama_bridge.length_checks import check_lengths, check_texts_fit
from ollama_bridge.models.load import load_tokenizer
from ollama_bridge.recipe.loading import load_recipe
from ollama_bridge.storage.artifacts import Corpus


def fixes_in(text: str) -> list[str]:
    return re.findall(r"--set (\S+)", text)


def told_of(learnt: Corpus, base: Path, *overrides: str, answers_given: bool = True) -> list[str]:
    """What is told of a build of a tuned teacher, whose student begins with its weights."""
    start = tiny_base(base)
    told: list[Any] = []
    heard: Any = SimpleNamespace(emit=told.append)
    recipe = load_recipe("sentiment-quick", overrides=overrides)
    check_lengths(recipe, start, learnt, start, heard, answers_given=answers_given)
    return [note.message for note in told]


@pytest.mark.parametrize("section", ["teacher.tune", "distill"])
def test_a_limit_that_leaves_out_every_text_is_refused(section: str, tmp_path: Path) -> None:
    """With the one that keeps them all, which is then accepted."""
    corpus, base = tiny_corpus(tmp_path / "corpus"), tmp_path / "base"
    assert told_of(corpus, base) == []
    with pytest.raises(DataError, match=rf"{section}\.max_length is 16 tokens") as caught:
        told_of(corpus, base, f"{section}.max_length=16")
    assert told_of(corpus, base, *fixes_in(caught.value.hint or "")) == []


def test_a_validation_split_of_long_texts_is_refused(tmp_path: Path) -> None:
    """It is scored in every training."""
    train = list(read_examples(tiny_corpus(tmp_path / "short").split_path("train")))
    long = [
        replace(one, messages=(Message("user", "food " * 600), one.messages[-1])) for one in train
    ]
    corpus = corpus_of(tmp_path / "corpus", {"train": train, "validation": long})
    with pytest.raises(DataError, match="the shortest of the validation texts has"):
        told_of(corpus, tmp_path / "base")


def test_what_the_student_alone_leaves_out_is_told_with_the_limit_that_keeps_it(
    tmp_path: Path,
) -> None:
    """What the tuned teacher leaves out as well is told when its texts are read."""
    examples = list(read_examples(tiny_corpus(tmp_path / "short").split_path("train")))
    long = replace(examples[3], messages=(Message("user", "food " * 60), Message("assistant", "x")))
    splits = {"train": [*examples, long], "validation": examples}
    corpus, base = corpus_of(tmp_path / "corpus", splits), tmp_path / "base"
    both = ["distill.max_length=120", "teacher.tune.max_length=120"]
    assert told_of(corpus, base, *both) == []
    (warning,) = told_of(corpus, base, both[0])
    assert re.match(r"1 of 25 training texts are longer than 120 tokens", warning)
    assert told_of(corpus, base, *fixes_in(warning)) == []


def test_of_answers_to_be_written_the_prompts_count(tmp_path: Path) -> None:
    """A given answer that is written again is not learnt."""
    short, long = Message("user", "good food"), Message("assistant", "great " * 600)
    examples = [Example(f"{number}", (short, long), f"{number}") for number in range(3)]
    corpus = corpus_of(tmp_path / "corpus", {"train": examples, "validation": examples})
    with pytest.raises(DataError, match="the shortest of the train texts has"):
        told_of(corpus, tmp_path / "base")
    assert told_of(corpus, tmp_path / "base", answers_given=False) == []


def test_texts_that_the_tag_refuses_are_told_before_they_are_learnt(tmp_path: Path) -> None:
    """A longer limit of training is advised where texts are left out: the tag has its own."""
    tokenizer = load_tokenizer(tiny_base(tmp_path / "base").path)

    def notes(learnt: Corpus, *overrides: str) -> list[str]:
        told: list[Any] = []
        heard: Any = SimpleNamespace(emit=told.append)
        check_texts_fit(load_recipe("chat", overrides=overrides), tokenizer, learnt, heard)
        return [note.message for note in told]

    def corpus(name: str, *answers: Message) -> Corpus:
        words = ["Größe" * count for count in (1, 200, 5000)]  # some tokens each
        examples = [
            Example(f"{number}", (Message("user", text), *answers), f"{number}")
            for number, text in enumerate(words)
        ]
        return corpus_of(tmp_path / name, {"train": examples})

    wider = "distill.max_length=60000"
    answered = corpus("answered", Message("assistant", "Good."))
    assert notes(answered) == []
    (warning,) = notes(answered, wider)
    assert warning.startswith("1 of 3 examples, of up to ")
    assert "refuse prompts of more than 4096" in warning
    assert notes(answered, wider, *fixes_in(warning)) == []
    assert notes(tiny_corpus(tmp_path / "short"), wider) == []
    (warning,) = notes(corpus("to be answered"), wider)
    assert warning.startswith("examples of up to 60000 tokens are learnt")
