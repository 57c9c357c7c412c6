"""Students whose template puts a blank in front of an answer, which is part of its first token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fakes.daemon import Asked, FakeDaemon, Turn
from fakes.labelled import answer_and_label, learnt
from fakes.models import build_tiny_tokenizer
from fakes.sentencepiece import CHAT_TEMPLATE, build_sentencepiece
from fakes.trainable import SPLITS, commit, corpus_of

from ollama_bridge.encoding.encode import Tokenizer
from ollama_bridge.examples import Example, Message
from ollama_bridge.models.load import load_tokenizer
from ollama_bridge.storage.artifacts import Checkpoint, Corpus
from ollama_bridge.teacher.token_bytes import TokenBytes
from ollama_bridge.teacher.turns import begins_in_blanks

PROMPT = "[user] good? [/]"


@dataclass(frozen=True)
class Format:
    """What a teacher's own template has in front of an answer."""

    blank: str

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt, and the beginning of an answer."""
        said = [self.blank + message["content"] for message in messages[1:]]
        return "".join([PROMPT, *said])

    def teaches(self, asked: Asked) -> Turn:
        """Says the label, or its end behind it."""
        if asked.path == "/api/chat":
            return Turn(pieces=[self.blank + "positive"], logprobs=[[self.report(-0.5)]])
        if asked.json["prompt"] == PROMPT:
            return Turn(pieces=["x"], logprobs=[[self.report(-0.25)]], prompt_tokens=5)
        end = {"token": "", "logprob": -0.25}
        return Turn(pieces=["x"], logprobs=[[{**end, "top_logprobs": [end]}]], prompt_tokens=6)

    def report(self, logprob: float) -> dict[str, object]:
        """Of the label, beside the other one."""
        said = {"token": self.blank + "positive", "logprob": logprob}
        other = {"token": self.blank + "negative", "logprob": -2.0}
        return {**said, "top_logprobs": [said, other]}


@pytest.fixture
def student(tmp_path: Path) -> Checkpoint:
    def fill(path: Path) -> None:
        build_sentencepiece(path)
        (path / "chat_template.jinja").write_text(CHAT_TEMPLATE)

    return commit(Checkpoint, tmp_path / "student", fill)


@pytest.fixture
def tokenizer(student: Checkpoint) -> Tokenizer:
    return load_tokenizer(student.path)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    asked = Example("a", (Message("user", "good?"),), "a")
    return corpus_of(tmp_path / "corpus", dict.fromkeys(SPLITS, (asked,)))


@pytest.fixture(params=["", " "], ids=["teacher without", "teacher with"])
def daemon(request: pytest.FixtureRequest) -> Iterator[FakeDaemon]:
    """A teacher whose template has no blank there, and one that has it as well."""
    form = Format(request.param)
    with FakeDaemon(script=form.teaches, rendered=form.render) as running:
        yield running


@pytest.mark.parametrize(
    ("score", "logprob", "hard"), [("generated", -0.5, 1), ("asked", -0.25, 0)]
)
def test_the_first_token_has_a_distribution(
    corpus: Corpus,
    student: Checkpoint,
    daemon: FakeDaemon,
    tokenizer: Tokenizer,
    tmp_path: Path,
    score: str,
    logprob: float,
    hard: int,
) -> None:
    """Names are the student's own, with its blank, whatever the teacher's template has there."""
    answered, labels = answer_and_label(corpus, student, daemon, tmp_path, score=score)
    _, found = learnt(answered, labels, tokenizer)
    names = tokenizer.convert_ids_to_tokens(found.ids[0].tolist())
    assert names == ["\u2581positive", "\u2581negative"]
    assert found.logprobs[0].tolist() == pytest.approx([logprob, -2.0])
    assert found.ids[1, 0] == tokenizer.eos_token_id
    assert labels.facts["tokens_by_origin"]["train"].get("hard", 0) == hard


def test_what_is_asked_stands_where_the_teacher_would_say_it(
    corpus: Corpus, student: Checkpoint, daemon: FakeDaemon, tmp_path: Path
) -> None:
    """Behind the blanks of its own template."""
    answer_and_label(corpus, student, daemon, tmp_path, score="asked")
    said = daemon.rendered([{"content": "good?"}, {"content": "positive"}])
    assert {body["prompt"] for body in daemon.questions} == {PROMPT, said}


def test_who_begins_in_blanks(tokenizer: Tokenizer) -> None:
    """Labels of others are the same work as they were."""
    answered = Example("a", (Message("user", "good?"), Message("assistant", "positive")), "a")
    assert begins_in_blanks(answered, tokenizer, TokenBytes(tokenizer))
    plain = build_tiny_tokenizer()
    assert not begins_in_blanks(answered, plain, TokenBytes(plain))
