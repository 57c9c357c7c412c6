"""Distributions of a teacher that thinks, for a student that learns its thoughts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.daemon import Asked, FakeDaemon, Turn
from fakes.labelled import answer_and_label, learnt
from fakes.reasoning import build_reasoner
from fakes.trainable import SPLITS, commit, corpus_of

from ollama_bridge.errors import DaemonError
from ollama_bridge.examples import Example, Message
from ollama_bridge.models.load import load_tokenizer
from ollama_bridge.recipe.loading import load_recipe
from ollama_bridge.storage.artifacts import Checkpoint, Corpus, SoftLabels

THOUGHT, ANSWER = "Four hundred, and nine and forty.", "449"
PROMPT = "[user]907-458=?"
THINKS = "<think>\n"


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Its prompt opens the thought, as DeepSeek-R1's does."""
    folder = tmp_path_factory.mktemp("reasoner") / "student"
    return commit(Checkpoint, folder, lambda path: build_reasoner(path))


@pytest.fixture(scope="module")
def tokenizer(student: Checkpoint) -> Any:
    return load_tokenizer(student.path)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    asked = Example("a", (Message("user", "907-458=?"),), "a")
    return corpus_of(tmp_path / "corpus", dict.fromkeys(SPLITS, (asked,)))


@pytest.fixture
def daemon(tokenizer: Any) -> Iterator[FakeDaemon]:
    """Reports its thought and its answer; of the marks between them nothing, as Ollama does."""

    def pieces(text: str) -> list[str]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return [tokenizer.decode([token]) for token in ids]

    def report(text: str, logprob: float) -> list[dict[str, object]]:
        entry = {"token": text, "logprob": logprob}
        return [{**entry, "top_logprobs": [entry]}]

    def teaches(asked: Asked) -> Turn:
        if asked.path == "/api/chat":
            thought, said = pieces(f"{THOUGHT}\n"), pieces(ANSWER)
            return Turn(
                thinking=thought,
                thought_logprobs=[report(piece, -0.5) for piece in thought],
                pieces=said,
                logprobs=[report(piece, -0.5) for piece in said],
            )
        given = asked.json["prompt"].removeprefix(PROMPT)
        whole = f"{THINKS}{THOUGHT}\n</think>\n\n{ANSWER}"
        if not whole.startswith(given):
            whole = f"{THINKS}\n</think>\n\n{ANSWER}"
        assert whole.startswith(given)
        said = pieces(whole[len(given) :])[:1] or [""]
        return Turn(
            pieces=said, logprobs=[report(said[0], -0.25)], prompt_tokens=len(pieces(given))
        )

    with FakeDaemon(script=teaches, prompt_end=THINKS) as running:
        yield running


def likelihoods(answered: Corpus, labels: SoftLabels, tokenizer: Any) -> list[tuple[str, float]]:
    """Each token of the training split, and how likely the teacher found it; 0.0: hard."""
    targets, found = learnt(answered, labels, tokenizer)
    assert found.ids[:, 0].tolist() == targets
    texts = [tokenizer.decode([token]) for token in targets]
    return list(zip(texts, found.logprobs[:, 0].tolist(), strict=True))


def test_a_thought_that_the_prompt_opens_brings_its_distributions(
    corpus: Corpus, student: Checkpoint, daemon: FakeDaemon, tokenizer: Any, tmp_path: Path
) -> None:
    """The student's turn begins behind <think>; only the marks around it are hard labels."""
    answered, labels = answer_and_label(
        corpus, student, daemon, tmp_path, thinking="keep", score="generated"
    )
    found = likelihoods(answered, labels, tokenizer)
    assert "".join(text for text, _ in found).startswith(THOUGHT)
    hard = "".join(text for text, logprob in found if logprob == 0.0)
    assert hard == f"\n</think>\n\n{tokenizer.eos_token}"
    assert {logprob for _, logprob in found} == {0.0, -0.5}


def test_what_is_asked_stands_behind_the_student_own_prompt(
    corpus: Corpus, student: Checkpoint, daemon: FakeDaemon, tokenizer: Any, tmp_path: Path
) -> None:
    """A thought goes on in the one that the prompt opened."""
    answered, labels = answer_and_label(
        corpus, student, daemon, tmp_path, thinking="keep", score="both"
    )
    found = likelihoods(answered, labels, tokenizer)
    assert labels.facts["hard_share"] == 0.0
    assert [logprob for text, logprob in found if text == "</think>"] == [-0.25]
    asked = [body["prompt"] for body in daemon.questions if "prompt" in body]
    assert all(prompt.startswith(f"{PROMPT}{THINKS}{THOUGHT}") for prompt in asked)


def test_an_answer_without_a_thought_is_asked_about_behind_its_end(
    corpus: Corpus, student: Checkpoint, daemon: FakeDaemon, tokenizer: Any, tmp_path: Path
) -> None:
    """The prompt opened one, which the student learns to close at once."""
    answered, labels = answer_and_label(
        corpus, student, daemon, tmp_path, thinking="strip", score="both"
    )
    found = likelihoods(answered, labels, tokenizer)
    asked = [body["prompt"] for body in daemon.questions if "prompt" in body]
    assert all(prompt.startswith(f"{PROMPT}{THINKS}\n</think>\n\n") for prompt in asked)
    assert "".join(text for text, logprob in found if logprob == -0.25) == (
        f"{ANSWER}{tokenizer.eos_token}"
    )


@pytest.mark.parametrize("base_url", [None, "http://box:8000/v1"])
def test_answers_without_their_thoughts_have_no_distributions(
    corpus: Corpus,
    student: Checkpoint,
    daemon: FakeDaemon,
    tokenizer: Any,
    tmp_path: Path,
    base_url: str | None,
) -> None:
    """What is likely behind a thought says nothing of them; each fix that is told can be typed."""
    asked: dict[str, Any] = {"thinking": "strip", "score": "generated", "base_url": base_url}
    with pytest.raises(DaemonError, match="gave no distribution for any of") as caught:
        answer_and_label(corpus, student, daemon, tmp_path, **asked)
    fixes = [re.findall(r"--set (\S+)", fix) for fix in (caught.value.hint or "").split("; or ")]
    own = ["teacher.soft_labels=daemon", "teacher.answers=daemon", "teacher.rewrite=true"]
    if base_url:
        own += [f"teacher.base_url={base_url}", "student.model=./student", "student.layers=null"]
    for fix in fixes:
        assert fix
        teacher = load_recipe("reply", overrides=[*own, *fix]).teacher
    if base_url:
        assert fixes[1] == ["teacher.soft_labels=none", "distill.kd_weight=0"]
        teacher = load_recipe("reply", overrides=[*own, *fixes[0]]).teacher
    asked |= {"thinking": teacher.thinking, "score": teacher.score}
    _, labels = answer_and_label(corpus, student, daemon, tmp_path, **asked)
    assert labels.facts["hard_share"] < 1


def test_of_several_turns_the_last_brings_its_distributions(
    student: Checkpoint, daemon: FakeDaemon, tokenizer: Any, tmp_path: Path
) -> None:
    """The template forgets thoughts, so only the last answer is learnt."""
    before = (Message("user", "Hi"), Message("assistant", "Hello"))
    asked = Example("a", (*before, Message("user", "907-458=?")), "a")
    corpus = corpus_of(tmp_path / "turns", dict.fromkeys(SPLITS, (asked,)))
    answered, labels = answer_and_label(
        corpus, student, daemon, tmp_path, thinking="keep", score="generated"
    )
    found = likelihoods(answered, labels, tokenizer)
    assert math.fsum(logprob == -0.5 for _, logprob in found) > len(found) / 2
