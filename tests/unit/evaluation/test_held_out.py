"""Which of the held-out texts are scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from fakes.trainable import corpus_of

from ollama_bridge.digests import digest_text
from ollama_bridge.evaluation.held_out import held_out_examples
from ollama_bridge.examples import Example, Message
from ollama_bridge.storage.artifacts import Corpus


def labelled_corpus(folder: Path, labels: Sequence[str | None]) -> Corpus:
    turns = (Message("user", "q"), Message("assistant", "a"))
    examples = [
        Example(f"text-{number}", turns, f"text-{number}", label)
        for number, label in enumerate(labels)
    ]
    return corpus_of(folder, {"test": examples})


@pytest.mark.parametrize(("limit", "rare"), [(10, 1), (20, 2), (50, 5), (99, 10)])
def test_a_limited_choice_has_the_shares_of_all(tmp_path: Path, limit: int, rare: int) -> None:
    """A label of a tenth of the texts is a tenth of the chosen ones, in the file's order."""
    corpus = labelled_corpus(tmp_path / "corpus", ["often"] * 90 + ["rare"] * 10)
    chosen = held_out_examples(corpus, limit=limit, by_label=True)
    assert Counter(one.label for one in chosen) == {"often": limit - rare, "rare": rare}
    numbers = [int(one.id.partition("-")[2]) for one in chosen]
    assert numbers == sorted(numbers)


def test_replies_are_chosen_by_their_ids_alone(tmp_path: Path) -> None:
    """A right answer is no class; which texts are asked stays what it was."""
    corpus = labelled_corpus(tmp_path / "corpus", ["12", None, "7", "12"] * 5)
    chosen = held_out_examples(corpus, limit=6, by_label=False)
    every = held_out_examples(corpus, limit=None, by_label=False)
    first = sorted((one.id for one in every), key=digest_text)[:6]
    assert {one.id for one in chosen} == set(first)
