"""A tiny corpus and a tiny checkpoint as artefacts, enough to train on."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from fakes.models import build_tiny_checkpoint
from safetensors.torch import load_file

from ollama_bridge.examples import Example, Message, write_examples
from ollama_bridge.storage.artifacts import Artifact, Checkpoint, Corpus, Work
from ollama_bridge.storage.drafts import open_draft

SYSTEM = "Is it positive or negative?"
LABELS = ("positive", "negative")
SPLITS = ("train", "validation", "test")
_WORDS = ("great", "food", "awful", "service", "we", "hoped", "good", "n't")

A = TypeVar("A", bound=Artifact)


def commit(
    kind: type[A],
    folder: Path,
    fill: Callable[[Path], object],
    *,
    name: str = "",
    facts: Mapping[str, object] | None = None,
) -> A:
    """Make a finished artefact of whatever ``fill`` writes into the folder it is given."""
    work = Work(kind=kind.kind, stage=f"test {name}", version=1)
    with open_draft(folder, work) as draft:
        fill(draft.path)
        return kind(folder, draft.commit(facts))


def corpus_of(
    folder: Path,
    splits: Mapping[str, Sequence[Example]],
    *,
    facts: Mapping[str, object] | None = None,
) -> Corpus:
    """A corpus of these examples, by split; its data card says nothing."""

    def fill(path: Path) -> None:
        for split, examples in splits.items():
            write_examples(path / f"{split}.jsonl", examples)
        (path / "card.json").write_text("{}")

    return commit(Corpus, folder, fill, facts=facts)


def sentiment_examples(count: int, *, name: str, seed: int = 0) -> list[Example]:
    """Classification examples of different lengths, with the system prompt in common."""
    chooser = random.Random(f"{name} {seed}")
    examples = []
    for number in range(count):
        text = " ".join(chooser.choices(_WORDS, k=chooser.randint(1, 10)))
        label = chooser.choice(LABELS)
        messages = (Message("system", SYSTEM), Message("user", text), Message("assistant", label))
        examples.append(Example(f"{name}{number}", messages, str(number), label))
    return examples


def tiny_corpus(folder: Path, *, seed: int = 0, train: int = 24) -> Corpus:
    """A corpus of a few classification examples."""
    splits = {
        split: sentiment_examples(count, name=split, seed=seed)
        for split, count in zip(SPLITS, (train, 8, 4), strict=True)
    }
    return corpus_of(folder, splits, facts={"datasets": ["some-texts"]})


def tiny_base(folder: Path, *, layers: int = 4, seed: int = 0) -> Checkpoint:
    """A random checkpoint as an artefact."""
    return commit(
        Checkpoint, folder, lambda path: build_tiny_checkpoint(path, layers=layers, seed=seed)
    )


def log_of(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """The entries of its training log."""
    log: list[dict[str, Any]] = json.loads((checkpoint.path / "training.json").read_text())["log"]
    return log


def weights_of(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Its tensors by name."""
    return load_file(checkpoint.path / "model.safetensors")


def scores_of(checkpoint: Checkpoint, name: str) -> list[float]:
    """One of its validation scores, in order."""
    return [entry["validation"][name] for entry in log_of(checkpoint) if "validation" in entry]
