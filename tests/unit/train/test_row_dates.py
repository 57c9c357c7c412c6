"""Dates in rows, of chat templates that write today into every prompt."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.daemon import Asked, FakeDaemon, Turn
from fakes.listening import KilledError, Listener
from fakes.trainable import (
    LABELS,
    SPLITS,
    SYSTEM,
    commit,
    corpus_of,
    sentiment_examples,
    tiny_corpus,
)
from fakes.turn_ends import build_speaker
from transformers.utils import chat_template_utils

from ollama_bridge.encoding.encode import encode_split
from ollama_bridge.encoding.row_dates import clock_of, key_of_dates
from ollama_bridge.encoding.turn_texts import render_turns
from ollama_bridge.evaluation.reply import Answer, write_greedily
from ollama_bridge.evaluation.run import evaluate
from ollama_bridge.examples import Example, Message, read_examples, write_examples
from ollama_bridge.label_store.segments import LABELS_NAME, ROWS_NAME
from ollama_bridge.models.compute.precision import Precision
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.recipe.config import (
    DistillSection,
    EvaluateSection,
    SoftLabelsSection,
    StudentSection,
    TaskSection,
    TeacherSection,
    TuneSection,
)
from ollama_bridge.reference import ReferenceValues
from ollama_bridge.reporting import NullReporter, StageReused
from ollama_bridge.storage.artifacts import Artifact, Checkpoint, Corpus, SoftLabels
from ollama_bridge.teacher.daemon import write_answers
from ollama_bridge.teacher.daemon_labels import label_by_daemon
from ollama_bridge.teacher.local import label
from ollama_bridge.teacher.respondent import in_daemons
from ollama_bridge.train import loop
from ollama_bridge.train.distill import distill
from ollama_bridge.train.finetune import finetune

MONDAY, TUESDAY = datetime.datetime(2026, 11, 30, 23), datetime.datetime(2026, 12, 1, 7)
DATED = ("llama3.2", "smollm3", "granite")
FLOAT32 = Precision(torch.device("cpu"), torch.float32, 1)

SetClock = Callable[[datetime.datetime], None]


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> SetClock:
    """Sets the clock on the wall that transformers looks at."""

    def to(now: datetime.datetime) -> None:
        class Wall(datetime.datetime):
            @classmethod
            def now(cls, _: datetime.tzinfo | None = None) -> Any:
                return now

        monkeypatch.setattr(chat_template_utils, "datetime", Wall)

    return to


def speaker(manner: str, folder: Path) -> Checkpoint:
    return commit(Checkpoint, folder, lambda path: build_speaker(manner, path), name=manner)


def without_system(examples: Sequence[Example]) -> list[Example]:
    """As Granite's template writes a date into."""
    return [replace(one, messages=one.messages[1:]) for one in examples]


@pytest.fixture
def plain_corpus(tmp_path: Path) -> Corpus:
    """Without system turns."""
    splits = {
        split: without_system(sentiment_examples(count, name=split))
        for split, count in zip(SPLITS, (24, 8, 4), strict=True)
    }
    return corpus_of(tmp_path / "corpus", splits)


@pytest.mark.parametrize("manner", DATED)
def test_rows_are_the_same_on_every_day(manner: str, tmp_path: Path, set_clock: SetClock) -> None:
    """And have many dates, each the one that transformers writes on that day."""
    tokenizer = load_tokenizer(build_speaker(manner, tmp_path / "model"))
    examples = without_system(sentiment_examples(30, name="t"))
    examples += sentiment_examples(3, name="with a system turn")
    rows, dates = [], set()
    for day in (MONDAY, TUESDAY):
        set_clock(day)
        split = encode_split(examples, tokenizer, max_length=512, name="train")
        rows.append([one.input_ids.tolist() for one in split.examples])
    assert rows[0] == rows[1]
    for example, ids in zip(examples, rows[0], strict=True):
        date = clock_of(example.messages)("%Y-%m-%d")
        set_clock(datetime.datetime.fromisoformat(date))
        turns = [message.to_dict() for message in example.messages]
        assert tokenizer.decode(ids) == tokenizer.apply_chat_template(turns, tokenize=False)
        dates.add(date)
    assert len(dates) > 20
    assert min(dates) >= "2024-01-01"
    assert max(dates) <= "2025-12-31"


@pytest.mark.parametrize("manner", DATED)
def test_a_conversation_has_one_date(manner: str, tmp_path: Path) -> None:
    """However much of it is rendered, whoever answered; another one has another."""
    tokenizer = load_tokenizer(build_speaker(manner, tmp_path / "model"))
    said = ("user", "Good?"), ("assistant", "yes"), ("user", "Sure?"), ("assistant", "quite")
    messages = tuple(Message(role, text) for role, text in said)  # type: ignore[arg-type]

    def date(turns: Sequence[Message], *, generation_prompt: bool = False) -> str:
        text = render_turns(turns, tokenizer, generation_prompt=generation_prompt)
        found = re.search(r"Today(?:'s)? Date: (.*?\d{4})", text)
        assert found is not None
        return found[1]

    one = date(messages)
    assert date(messages[:1], generation_prompt=True) == one
    assert date(messages[:3], generation_prompt=True) == date(messages[:2]) == one
    assert date((messages[0], Message("assistant", "no"))) == one
    assert date((Message("user", "Bad?"), *messages[1:])) != one


@pytest.mark.parametrize("manner", ["instruct", "gemma", "phi3", "reasoner"])
def test_who_writes_no_date_has_rows_and_keys_of_before(manner: str, tmp_path: Path) -> None:
    """All of it is what transformers renders, and what is there is found again."""
    tokenizer = load_tokenizer(build_speaker(manner, tmp_path / "model"))
    assert key_of_dates(tokenizer) == {}
    for example in sentiment_examples(5, name="t"):
        turns = [message.to_dict() for message in example.prompt]
        assert render_turns(
            example.prompt, tokenizer, generation_prompt=True
        ) == tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def labelled(model: Checkpoint, corpus: Corpus, folder: Path, **given: Any) -> SoftLabels:
    return label(
        model,
        corpus,
        SoftLabelsSection(top_k=8),
        max_length=512,
        dtype="float32",
        out_dir=folder,
        store_dir=folder.parent / "stores",
        **given,
    )


def trained(start: Checkpoint, corpus: Corpus, labels: SoftLabels, folder: Path) -> Checkpoint:
    return distill(
        start,
        corpus,
        labels,
        DistillSection(epochs=1, batch_tokens=1000, dtype="float32"),
        student=StudentSection(layers=1, layer_choice="first"),
        system=None,
        out_dir=folder,
    )


@pytest.mark.parametrize("manner", DATED)
def test_labels_of_yesterday_are_the_student_s_of_today(
    manner: str, plain_corpus: Corpus, tmp_path: Path, set_clock: SetClock
) -> None:
    """They are found as they are, another run computes none, and the tag's date is no row's."""
    model = speaker(manner, tmp_path / "model")
    set_clock(MONDAY)
    labels = labelled(model, plain_corpus, tmp_path / "labels")
    set_clock(TUESDAY)
    heard = Listener()
    labelled(model, plain_corpus, tmp_path / "labels", reporter=heard)
    assert any(isinstance(event, StageReused) for event in heard.events)
    again = labelled(model, plain_corpus, tmp_path / "another run's")
    assert again.facts["labelled_rows"] == 0
    before = datetime.datetime.now()
    student = trained(model, plain_corpus, labels, tmp_path / "student")
    days = (before, datetime.datetime.now())
    for one in (labels, student):
        assert one.manifest.work.settings["dates"] == "of the rows"
    for form, date in ReferenceValues.read(student.reference_path).dates.items():
        assert date in {day.strftime(form) for day in days}
    template = load_tokenizer(model.path).chat_template
    assert load_tokenizer(student.path).chat_template == template


def says_positive(_: Asked) -> Turn:
    rivals = [{"token": text, "logprob": value} for text, value in (("positive", -0.5), ("!", -2))]
    return Turn(pieces=["positive"], logprobs=[[{**rivals[0], "top_logprobs": rivals}]])


@pytest.mark.usefixtures("no_reference_values")
def test_labels_by_ollama_are_the_student_s_of_tomorrow(
    plain_corpus: Corpus, tmp_path: Path, set_clock: SetClock
) -> None:
    """Its own prompts have its own date; what it says is about answers, and kept by rows."""
    model = speaker("llama3.2", tmp_path / "model")
    for split in SPLITS:
        path = plain_corpus.split_path(split)
        asked = [replace(one, messages=one.prompt, label=None) for one in read_examples(path)]
        write_examples(path, asked)
    teacher = TeacherSection(
        model="ollama:m", answers="daemon", soft_labels="daemon", score="generated"
    )
    set_clock(MONDAY)
    with FakeDaemon(script=says_positive) as daemon:
        respondent = in_daemons("m", [daemon.host])
        answered = write_answers(
            plain_corpus, teacher, respondent=respondent, out_dir=tmp_path / "answers"
        )
        labels = label_by_daemon(
            answered,
            model,
            SoftLabelsSection(top_k=4),
            teacher,
            respondent=respondent,
            max_length=512,
            out_dir=tmp_path / "labels",
        )
    words_and_ends = {"generated": 24, "hard": 24}
    assert labels.facts["tokens_by_origin"]["train"] == words_and_ends
    set_clock(TUESDAY)
    student = trained(model, answered, labels, tmp_path / "student")
    for one in (labels, student):
        assert one.manifest.work.settings["dates"] == "of the rows"


def test_a_teacher_of_another_format_reads_the_same_dates(
    tmp_path: Path, set_clock: SetClock
) -> None:
    """What it says is kept by the student's rows, in which no date need be."""
    teacher = speaker("llama3.2", tmp_path / "teacher")
    student = speaker("instruct", tmp_path / "student")
    corpus = tiny_corpus(tmp_path / "corpus")
    stored = []
    for day in (MONDAY, TUESDAY):
        set_clock(day)
        folder = tmp_path / f"{day:%A}" / "labels"
        labels = labelled(teacher, corpus, folder, student=student)
        files = [path for name in (ROWS_NAME, LABELS_NAME) for path in folder.rglob(name)]
        assert len(files) == 2
        stored.append([path.read_bytes() for path in files])
    assert stored[0] == stored[1]
    settings = labels.manifest.work.settings
    assert settings["teacher's dates"] == "of the rows"
    assert "dates" not in settings


@pytest.mark.usefixtures("no_reference_values")
def test_a_resumed_run_learns_the_rows_that_it_began_with(
    tmp_path: Path, set_clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed on Monday, gone on with on Tuesday: the weights of an unbroken run."""
    monkeypatch.setattr(loop, "_MAX_SAVING_SHARE", float("inf"))
    base = speaker("smollm3", tmp_path / "base")
    corpus = tiny_corpus(tmp_path / "corpus")
    settings = TuneSection(
        epochs=2, batch_tokens=1000, lr=1e-2, dtype="float32", checkpoint_interval_s=1e-9
    )

    def tuned(name: str, reporter: Listener | None = None) -> Checkpoint:
        out_dir = tmp_path / name
        return finetune(base, corpus, settings, system=SYSTEM, out_dir=out_dir, reporter=reporter)

    set_clock(MONDAY)
    whole = tuned("whole")
    with pytest.raises(KilledError):
        tuned("killed", Listener(kill_at=3))
    set_clock(TUESDAY)
    resumed = tuned("killed")
    assert resumed.digest == whole.digest
    assert resumed.manifest.work.settings["dates"] == "of the rows"


def test_models_are_scored_on_the_same_prompts_every_day(
    plain_corpus: Corpus, tmp_path: Path, set_clock: SetClock
) -> None:
    """Their own answers, too; scores of a real day are none of these."""
    checkpoint = speaker("llama3.2", tmp_path / "model")
    model, tokenizer = load_model(checkpoint.path), load_tokenizer(checkpoint.path)
    written: list[list[Answer]] = []
    reports: list[Artifact] = []
    for day in (MONDAY, TUESDAY):
        set_clock(day)
        written.append(
            write_greedily(
                model,
                tokenizer,
                without_system(sentiment_examples(12, name="t")),
                max_tokens=8,
                precision=FLOAT32,
                stage="s",
                reporter=NullReporter(),
            )
        )
        reports.append(
            evaluate(
                {"student": checkpoint},
                plain_corpus,
                EvaluateSection(bootstrap_samples=100),
                TaskSection(kind="classify", system=SYSTEM, labels=LABELS),
                out_dir=tmp_path / f"{day:%A}",
            )
        )
    assert written[0] == written[1]
    predicted = [(one.path / "predictions.jsonl").read_bytes() for one in reports]
    assert predicted[0] == predicted[1]
    assert [one.manifest.work.settings["model student"] for one in reports] == [
        {"dates": "of the rows"}
    ] * 2
