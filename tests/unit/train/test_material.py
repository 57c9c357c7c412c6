"""What training reads of a corpus, and what is said of it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from fakes.json_files import change_json
from fakes.listening import Listener
from fakes.reasoning import build_reasoner
from fakes.trainable import SPLITS, corpus_of

from ollama_bridge.encoding.encode import encode
from ollama_bridge.examples import Example, Message, read_examples
from ollama_bridge.models.load import load_tokenizer
from ollama_bridge.recipe.config import EarlyStoppingSection, OptimizerSection
from ollama_bridge.storage.artifacts import Checkpoint, Corpus
from ollama_bridge.train.material import Material, key_settings, load_material


def test_the_share_that_is_learnt_is_said(base: Checkpoint, corpus: Corpus) -> None:
    """Of all tokens the answers' and their ends', counted here from the rendered text."""
    listener = Listener()
    load_material(base.path, corpus, OptimizerSection(), stage="test", reporter=listener)
    tokenizer = load_tokenizer(base.path)
    tokens = answers = count = 0
    for example in read_examples(corpus.split_path("train")):
        messages = [{"role": one.role, "content": one.content} for one in example.messages]
        ids = tokenizer.apply_chat_template(messages, return_dict=False)
        prompt = tokenizer.apply_chat_template(
            messages[:-1], add_generation_prompt=True, return_dict=False
        )
        tokens += len(ids)
        answers += ids[len(prompt) :].index(tokenizer.eos_token_id) + 1
        count += 1
    share = f"{answers / tokens:.1%} of their tokens are supervised"
    assert listener.notes[0] == f"{count} examples, {share}"


@pytest.mark.parametrize(
    ("stage", "section"),
    [("finetune", "teacher.tune"), ("distill", "distill"), ("control", "distill")],
)
def test_few_steps_are_told_with_the_epochs_that_make_more(
    base: Checkpoint, corpus: Corpus, stage: str, section: str
) -> None:
    """What is printed makes so many steps, and then nothing is said; who chose few is not told."""

    def notes(epochs: float, max_examples: int | None = None) -> tuple[list[str], int]:
        listener = Listener()
        material = load_material(
            base.path,
            corpus,
            OptimizerSection(batch_tokens=100, epochs=epochs),
            stage=stage,
            reporter=listener,
            max_examples=max_examples,
        )
        return [one for one in listener.warnings if "are few" in one], len(material.training)

    (said,), an_epoch = notes(1.5)
    found = re.fullmatch(rf"(\d+) steps are few: --set {section}\.epochs=(\d+) makes (\d+)", said)
    assert found is not None
    steps, epochs, more = map(int, found.groups())
    assert (steps, more) == (round(1.5 * an_epoch), epochs * an_epoch)
    assert more - an_epoch < 100 <= more
    assert notes(epochs)[0] == []
    assert notes(epochs - 1)[0] != []
    assert notes(1.5, max_examples=4)[0] == []


@pytest.mark.parametrize(
    ("stage", "section"),
    [("finetune", "teacher.tune"), ("distill", "distill"), ("control", "distill")],
)
def test_a_small_file_is_repeated_until_its_steps_are_enough(
    base: Checkpoint, corpus: Corpus, stage: str, section: str
) -> None:
    """In whole passes, and told with what undoes it; not where few were chosen, or are enough."""

    def loaded(max_examples: int | None = None, **changes: Any) -> tuple[Material, list[str]]:
        listener = Listener()
        settings = OptimizerSection(batch_tokens=100, epochs=1.5, **changes)
        material = load_material(
            base.path,
            corpus,
            settings,
            stage=stage,
            reporter=listener,
            max_examples=max_examples,
        )
        assert len(listener.warnings) == (not changes and max_examples is None)
        return material, [one for one in listener.notes if "min_steps" in one]

    asked, said = loaded()
    an_epoch = len(asked.training)
    assert (asked.epochs, said) == (1.5, [])
    assert "epochs" not in asked.facts
    material, said = loaded(min_steps=5 * an_epoch - 1)
    assert material.epochs == material.facts["epochs"] == 5
    assert said == [
        f"5 epochs in place of 1.5, for an epoch has {an_epoch} steps (min_steps "
        f"{5 * an_epoch - 1}): --set {section}.min_steps=null takes as few as they are"
    ]
    for material, said in (
        loaded(min_steps=round(1.5 * an_epoch)),
        loaded(max_examples=4, min_steps=100),
    ):
        assert (material.epochs, said) == (1.5, [])


def lengths_in_tokens(base: Checkpoint, corpus: Corpus) -> list[int]:
    """Of the training examples, the shortest first."""
    tokenizer = load_tokenizer(base.path)
    return sorted(
        len(encode(example, tokenizer).input_ids)
        for example in read_examples(corpus.split_path("train"))
    )


@pytest.mark.parametrize(
    ("stage", "section"),
    [("finetune", "teacher.tune"), ("distill", "distill"), ("control", "distill")],
)
def test_what_a_limit_leaves_out_is_said_with_what_lifts_it(
    base: Checkpoint, corpus: Corpus, stage: str, section: str
) -> None:
    """By the key of the stage's section; with the values that are said, all are learnt."""
    lengths = lengths_in_tokens(base, corpus)
    listener = Listener()
    limit = lengths[len(lengths) // 2]
    settings = OptimizerSection(max_length=limit)
    load_material(base.path, corpus, settings, stage=stage, reporter=listener, max_examples=2)
    notes = listener.notes
    short = sum(length <= limit for length in lengths)
    assert 2 < short < len(lengths)
    assert notes[0].startswith(f"{len(lengths) - short} train examples are longer than {limit} ")
    assert notes[0].endswith(f"--set {section}.max_length={lengths[-1]} keeps them all")
    said = f"2 of {short} examples are used: --set {section}.max_examples=null takes them all"
    assert said in notes


def test_answers_that_a_forgetful_template_keeps_from_being_learnt_are_told(tmp_path: Path) -> None:
    """Of every conversation the last one is learnt; what is advised teaches them all."""
    folder = build_reasoner(tmp_path / "model")
    said = [Message("user", "Good?"), Message("assistant", "yes"), Message("user", "Sure?")]
    said += [Message("assistant", "very")]

    def notes(name: str, *conversations: list[Message]) -> list[str]:
        rows = [Example(str(n), tuple(turns), "x") for n, turns in enumerate(conversations)]
        listener = Listener()
        corpus = corpus_of(tmp_path / name, dict.fromkeys(SPLITS, rows))
        enough = OptimizerSection(epochs=100)
        load_material(folder, corpus, enough, stage="distill", reporter=listener)
        return listener.warnings

    (warning,) = notes("whole", said, said[2:])
    assert warning.startswith("1 of 3 answers are not learnt")
    assert notes("a-line-an-answer", said[:2], said, said[2:]) == []


@pytest.mark.parametrize("more", [0, 1])
def test_no_length_is_advised_that_the_model_does_not_know(
    base: Checkpoint, corpus: Corpus, tmp_path: Path, more: int
) -> None:
    """Beyond its context the weights have not learnt positions."""
    lengths = lengths_in_tokens(base, corpus)
    folder, listener, limit = tmp_path / "model", Listener(), lengths[len(lengths) // 2]
    shutil.copytree(base.path, folder)
    change_json(folder / "config.json", max_position_embeddings=limit + more)
    settings = OptimizerSection(max_length=limit)
    load_material(folder, corpus, settings, stage="distill", reporter=listener)
    notes = listener.notes
    assert lengths[-1] > limit + 1
    assert notes[0].endswith(
        f": --set distill.max_length={limit + 1} keeps them all that fit the model's context"
        if more
        else f"are longer than {limit} tokens and were left out"
    )


def test_what_is_learnt_beyond_the_context_is_told(
    base: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    """A limit above the model's context is taken at its word; the one that is said keeps to it."""
    lengths = lengths_in_tokens(base, corpus)
    folder, room = tmp_path / "model", lengths[len(lengths) // 2]
    shutil.copytree(base.path, folder)
    change_json(folder / "config.json", max_position_embeddings=room)

    def notes(limit: int) -> list[str]:
        listener = Listener()
        settings = OptimizerSection(max_length=limit)
        load_material(folder, corpus, settings, stage="finetune", reporter=listener)
        return [one for one in listener.notes if "model's context of" in one]

    beyond = sum(length > room for length in lengths)
    assert beyond > 0
    assert notes(room) == []
    assert notes(512)[0] == (
        f"{beyond} train examples are longer than the model's context of {room} tokens: "
        f"--set teacher.tune.max_length={room} leaves them out"
    )


def test_in_float32_nothing_was_rounded() -> None:
    """What was stopped by scores is other work since near ties are told apart; not there."""

    def keyed(**changes: Any) -> bool:
        settings = OptimizerSection(early_stopping=EarlyStoppingSection(), **changes)
        return "likeliest" in key_settings(settings)

    assert keyed()
    assert keyed(dtype="bfloat16")
    assert not keyed(dtype="float32")
    assert "likeliest" not in key_settings(OptimizerSection())


def test_least_steps_are_in_the_key_where_they_are_asked_for() -> None:
    """What was done before there were any is found again."""
    assert "min_steps" not in key_settings(OptimizerSection())
    assert key_settings(OptimizerSection(min_steps=100))["min_steps"] == 100
