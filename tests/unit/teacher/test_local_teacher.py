"""The label stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from fakes.trainable import tiny_base, tiny_corpus

from ollama_bridge.artifacts import Checkpoint, Corpus, SoftLabels
from ollama_bridge.config import SoftLabelsSection
from ollama_bridge.encoding import encode_split
from ollama_bridge.examples import read_examples
from ollama_bridge.labels import LabelStore, read_info
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.reporting import Event, Progress, StageReused, StageStarted
from ollama_bridge.teacher import local
from ollama_bridge.teacher.local import label


class KilledError(Exception):
    """Stands for a kill between two shards."""


@dataclass
class Listener:
    kill_at_shard: int | None = None
    events: list[Event] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        self.events.append(event)
        progress = [event for event in self.events if isinstance(event, Progress)]
        if len(progress) == self.kill_at_shard:
            raise KilledError


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    torch.set_num_threads(1)
    return tiny_base(tmp_path_factory.mktemp("teacher") / "teacher", layers=2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return tiny_corpus(tmp_path_factory.mktemp("corpus") / "corpus")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several shards, though the corpus is tiny."""
    monkeypatch.setattr(local, "_BATCH_TOKENS", 200)
    monkeypatch.setattr(local, "_BATCHES_PER_SHARD", 2)


def run(
    teacher: Checkpoint, corpus: Corpus, out_dir: Path, *, reporter: Listener | None = None
) -> SoftLabels:
    return label(
        teacher,
        corpus,
        SoftLabelsSection(top_k=5),
        max_length=512,
        dtype="float32",
        out_dir=out_dir,
        reporter=reporter,
    )


def test_labels_are_the_teachers_distributions(
    teacher: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    """Every stored position equals the log-softmax of the whole model on the whole example."""
    labels = run(teacher, corpus, tmp_path / "labels")
    model, tokenizer = load_model(teacher.path), load_tokenizer(teacher.path)
    for name in ("train", "validation"):
        store = LabelStore(labels.path, name)
        examples = list(read_examples(corpus.split_path(name)))
        split = encode_split(examples, tokenizer, max_length=512, name=name)
        assert len(store) == len(split.examples) == labels.facts[f"{name}_examples"]
        for example in split.examples[:6]:
            ids = torch.from_numpy(example.input_ids).long()[None]
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0, example.targets - 1]
            expected = torch.log_softmax(logits, -1)
            found = store.read([example.row])
            assert torch.equal(found.ids[:, 0], expected.argmax(-1))
            gathered = expected.gather(-1, found.ids)
            assert torch.allclose(found.logprobs, gathered, rtol=2e-3, atol=2e-3)
            rest = 1 - gathered.exp().sum(-1)
            assert torch.allclose(found.residual.exp(), rest, atol=1e-4)
    info = read_info(labels.path)
    assert (info.teacher, info.corpus) == (teacher.digest, corpus.digest)
    assert labels.facts["content_key"] == info.content_key


def test_killed_pass_goes_on_and_ends_equal(
    teacher: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    """Shards that were complete are kept; the finished store is the same, file by file."""
    whole = run(teacher, corpus, tmp_path / "whole")
    with pytest.raises(KilledError):
        run(teacher, corpus, tmp_path / "labels", reporter=Listener(kill_at_shard=2))
    assert not (tmp_path / "labels").exists()
    listener = Listener()
    resumed = run(teacher, corpus, tmp_path / "labels", reporter=listener)
    assert resumed.digest == whole.digest
    started = [event for event in listener.events if isinstance(event, StageStarted)]
    assert started[-1].resumed_from > 0
    last = [event for event in listener.events if isinstance(event, Progress)][-1]
    assert last.done == last.total
    assert last.fields["tok_s"] > 0


def test_second_call_reuses(teacher: Checkpoint, corpus: Corpus, tmp_path: Path) -> None:
    """A finished pass is found, not repeated; another top_k is other work."""
    run(teacher, corpus, tmp_path / "labels")
    listener = Listener()
    run(teacher, corpus, tmp_path / "labels", reporter=listener)
    assert any(isinstance(event, StageReused) for event in listener.events)
    other = label(
        teacher, corpus, SoftLabelsSection(top_k=3), max_length=512, out_dir=tmp_path / "labels"
    )
    assert read_info(other.path).top_k == 3
