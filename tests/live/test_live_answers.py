"""Answers and scores through a real daemon."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes.trainable import commit

from ollama_bridge.artifacts import Corpus, digest_file
from ollama_bridge.client import Client
from ollama_bridge.config import EvaluateSection, TaskSection, TeacherSection
from ollama_bridge.daemon.process import PrivateDaemon
from ollama_bridge.evaluation.served import evaluate_served
from ollama_bridge.examples import Example, Message, read_examples, write_examples
from ollama_bridge.teacher.daemon import write_answers

pytestmark = pytest.mark.live

TAG = "live-answers:teacher"
SYSTEM = "Write a short, polite answer to this customer."
TEXTS = (
    "The player stopped working after two days.",
    "I love this camera, the pictures are great.",
    "Shipping took four weeks.",
)


@pytest.fixture(scope="module")
def client(daemon: PrivateDaemon, teacher_gguf: Path) -> Client:
    """A client of a daemon that has the packaged teacher."""
    client = daemon.client()
    digest = f"sha256:{digest_file(teacher_gguf)}"
    if not client.has_blob(digest):
        client.upload_blob(teacher_gguf, digest)
    client.create({"model": TAG, "files": {"model.gguf": digest}})
    return client


def corpus_of(folder: Path, *, answer: str | None = None) -> Corpus:
    def fill(path: Path) -> None:
        for split in ("train", "validation", "test"):
            examples = []
            for number, text in enumerate(TEXTS):
                turns = [Message("system", SYSTEM), Message("user", text)]
                if answer is not None:
                    turns.append(Message("assistant", answer))
                name = f"{split}{number}"
                examples.append(Example(name, tuple(turns), name, answer))
            write_examples(path / f"{split}.jsonl", examples)
        (path / "card.json").write_text("{}")

    return commit(Corpus, folder, fill)


def test_the_teacher_answers_and_is_asked_again_for_nothing(client: Client, tmp_path: Path) -> None:
    """A real model's answers end up in the corpus, the same ones at temperature 0."""
    settings = TeacherSection(model=f"ollama:{TAG}", answers="daemon", answer_tokens=120)
    digest = next(model.digest for model in client.list() if model.name == TAG)
    corpus = corpus_of(tmp_path / "corpus")
    answered = write_answers(
        corpus,
        settings,
        tag=TAG,
        model_digest=digest,
        client=client,
        out_dir=tmp_path / "answers",
    )
    kept = list(read_examples(answered.split_path("test")))
    assert kept
    assert all(example.messages[-1].role == "assistant" for example in kept)
    report = evaluate_served(
        {"teacher": TAG},
        answered,
        EvaluateSection(reply_tokens=120),
        TaskSection(kind="reply", system=""),
        client=client,
        out_dir=tmp_path / "served",
    )
    entry = json.loads(report.report_path.read_text())["models"]["teacher"]
    assert entry["prompt_tokens_per_s"] > 0
    assert entry["generated_tokens_per_s"] > 0
    assert entry["size_bytes"] > 50_000_000
    assert entry["memory_bytes"] > 50_000_000
    assert entry["ended"] > 0


def test_classification_counts_exact_words(client: Client, tmp_path: Path) -> None:
    """A real model that is asked for a word is judged by that word, and its speed is measured."""
    report = evaluate_served(
        {"teacher": TAG},
        corpus_of(tmp_path / "corpus", answer="positive"),
        EvaluateSection(bootstrap_samples=100),
        TaskSection(kind="classify", system="", labels=("positive", "negative")),
        client=client,
        out_dir=tmp_path / "served",
    )
    entry = json.loads(report.report_path.read_text())["models"]["teacher"]
    assert 0 <= entry["one_word"] <= 1
    assert sum(map(sum, entry["confusion"])) == len(TEXTS)
    assert entry["texts_per_s"] > 0
