"""Answers written by the daemon: nothing is asked twice, nothing is lost, bad ones are left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes.trainable import commit

from ollama_bridge.artifacts import Corpus
from ollama_bridge.config import TeacherSection
from ollama_bridge.errors import (
    ContextOverflowError,
    DaemonError,
    DaemonUnreachableError,
    ModelNotFoundError,
    RequestRejectedError,
)
from ollama_bridge.examples import Example, Message, read_examples, write_examples
from ollama_bridge.teacher.daemon import write_answers

SETTINGS = TeacherSection(model="ollama:m", answers="daemon", answer_tokens=7)


class FakeClient:
    """Answers by a function of the user's text; remembers what it was asked."""

    def __init__(self, answer: Callable[[str], tuple[str, str]]) -> None:
        self._answer = answer
        self.asked: list[str] = []
        self.options: list[Mapping[str, object]] = []

    def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, str]],
        *,
        options: Mapping[str, object],
    ) -> Any:
        text = messages[-1]["content"]
        self.asked.append(text)
        self.options.append(options)
        answer, reason = self._answer(text)
        return SimpleNamespace(text=answer, done_reason=reason, generated_tokens=3)


def example(name: str, *, answer: str | None = None) -> Example:
    messages = [Message("system", "S"), Message("user", name)]
    if answer is not None:
        messages.append(Message("assistant", answer))
    return Example(name, tuple(messages), name)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    def fill(path: Path) -> None:
        write_examples(path / "train.jsonl", [example(f"train{n}") for n in range(8)])
        write_examples(path / "validation.jsonl", [example("val0")])
        write_examples(path / "test.jsonl", [example("test0"), example("gold", answer="as given")])
        (path / "card.json").write_text("{}")

    return commit(Corpus, tmp_path / "corpus", fill)


def write(corpus: Corpus, client: FakeClient, folder: Path, *, digest: str = "d") -> Corpus:
    return write_answers(
        corpus, SETTINGS, tag="m", model_digest=digest, client=client, out_dir=folder / "answers"
    )


def polite(text: str) -> tuple[str, str]:
    return f" Thank you for {text}. ", "stop"


def test_prompts_are_answered_and_gold_is_kept(corpus: Corpus, tmp_path: Path) -> None:
    """Every open example gets the teacher's answer; what had one is not asked."""
    client = FakeClient(polite)
    answered = write(corpus, client, tmp_path)
    test = list(read_examples(answered.split_path("test")))
    assert test[0].messages[-1] == Message("assistant", "Thank you for test0.")
    assert test[1].messages[-1].content == "as given"
    assert len(client.asked) == 10
    assert "gold" not in client.asked
    assert all(options["num_predict"] == 7 for options in client.options)
    assert len({options["seed"] for options in client.options}) == 10
    assert answered.facts == {
        "train": 8,
        "validation": 1,
        "test": 2,
        "answers": {"had an answer": 1, "kept": 10},
    }


@pytest.mark.parametrize("survived", range(11))
def test_a_broken_run_goes_on(corpus: Corpus, tmp_path: Path, survived: int) -> None:
    """After a failure at any request, the next run asks only for the rest."""
    count = 0

    def breaks(text: str) -> tuple[str, str]:
        nonlocal count
        count += 1
        if count > survived:
            raise DaemonUnreachableError("gone")
        return polite(text)

    first, second = FakeClient(breaks), FakeClient(polite)
    if survived < 10:
        with pytest.raises(DaemonUnreachableError):
            write(corpus, first, tmp_path)
    answered = write(corpus, second, tmp_path)
    asked = first.asked[:survived] + second.asked
    if survived < 10:
        assert len(asked) == len(set(asked)) == 10
    whole = write(corpus, FakeClient(polite), tmp_path / "whole")
    assert answered.digest == whole.digest


def test_another_model_is_other_work(corpus: Corpus, tmp_path: Path) -> None:
    """Same tag, other digest: all is asked again."""
    write(corpus, FakeClient(polite), tmp_path)
    client = FakeClient(polite)
    write(corpus, client, tmp_path)
    assert client.asked == []
    write(corpus, client, tmp_path, digest="other")
    assert len(client.asked) == 10


def test_bad_answers_are_left_out_and_counted(corpus: Corpus, tmp_path: Path) -> None:
    """Cut, empty and looping answers, and rows that the daemon refuses, do not get in."""

    def mixed(text: str) -> tuple[str, str]:
        if text == "train3":
            raise ContextOverflowError("too long", status_code=400)
        if text == "train4":
            raise RequestRejectedError("odd row", status_code=500)
        return {
            "train0": ("cut off in the", "length"),
            "train1": ("  ", "stop"),
            "train2": ("well " * 20, "stop"),
        }.get(text, polite(text))

    answered = write(corpus, FakeClient(mixed), tmp_path)
    kept = [one.id for one in read_examples(answered.split_path("train"))]
    assert kept == ["train5", "train6", "train7"]
    card = json.loads((answered.path / "card.json").read_text())
    assert card["outcomes"]["train"] == {
        "cut at the limit": 1,
        "empty": 1,
        "kept": 3,
        "looping": 1,
        "refused": 2,
    }
    refused = [
        json.loads(line) for line in (answered.path / "refused.jsonl").read_text().splitlines()
    ]
    assert [record["error"] for record in refused] == ["400: too long", "500: odd row"]


def test_a_daemon_that_refuses_everything_is_not_the_rows_fault(
    corpus: Corpus, tmp_path: Path
) -> None:
    """Five refusals in a row stop the stage, and cost no row."""

    def refuses(text: str) -> tuple[str, str]:
        raise RequestRejectedError("out of memory", status_code=500)

    client = FakeClient(refuses)
    with pytest.raises(RequestRejectedError, match="out of memory"):
        write(corpus, client, tmp_path)
    assert len(client.asked) == 5
    assert write(corpus, FakeClient(polite), tmp_path).facts["train"] == 8


def test_a_missing_model_stops_at_once(corpus: Corpus, tmp_path: Path) -> None:
    """No such model: the first request says it."""

    def missing(text: str) -> tuple[str, str]:
        raise ModelNotFoundError("no m", status_code=404)

    client = FakeClient(missing)
    with pytest.raises(ModelNotFoundError):
        write(corpus, client, tmp_path)
    assert len(client.asked) == 1


def test_no_usable_answer_for_a_split_is_an_error(corpus: Corpus, tmp_path: Path) -> None:
    """A teacher whose answers are all cut off teaches nothing."""
    with pytest.raises(DaemonError, match="no usable answer for the validation split: 1 cut"):
        write(corpus, FakeClient(lambda text: ("cut", "length")), tmp_path)
