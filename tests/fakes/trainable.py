"""A tiny corpus and a tiny checkpoint as artefacts, enough to train on."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from fakes.models import build_tiny_checkpoint

from ollama_bridge.artifacts import Artifact, Checkpoint, Corpus, Work
from ollama_bridge.drafts import open_draft
from ollama_bridge.examples import Example, Message, write_examples

SYSTEM = "Is it positive or negative?"
LABELS = ("positive", "negative")
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

    def fill(path: Path) -> None:
        for split, count in (("train", train), ("validation", 8), ("test", 4)):
            examples = sentiment_examples(count, name=split, seed=seed)
            write_examples(path / f"{split}.jsonl", examples)

    return commit(Corpus, folder, fill, facts={"datasets": ["some-texts"]})


def tiny_base(folder: Path, *, layers: int = 4, seed: int = 0) -> Checkpoint:
    """A random checkpoint as an artefact."""
    return commit(
        Checkpoint, folder, lambda path: build_tiny_checkpoint(path, layers=layers, seed=seed)
    )
