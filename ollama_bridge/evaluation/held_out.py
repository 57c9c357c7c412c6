"""The held-out texts: which are scored, and the file of what models said to them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ollama_bridge.answer_text import THOUGHT_END
from ollama_bridge.digests import digest_text
from ollama_bridge.errors import DataError
from ollama_bridge.examples import Example, read_examples
from ollama_bridge.storage.artifacts import Corpus
from ollama_bridge.storage.atomic_files import write_json_lines_atomic


def held_out_examples(corpus: Corpus, *, limit: int | None, by_label: bool) -> list[Example]:
    """Examples of the test split that have an answer, in the file's order.

    Args:
        corpus: Prepared, and where needed answered.
        limit: At most so many; chosen by the digest of their ids, for the file is sorted by source.
        by_label: Whether labels have the same shares among the chosen as among all, so that rare
            ones are there too.

    Raises:
        DataError: there are none.
    """
    path = corpus.split_path("test")
    examples = [one for one in read_examples(path) if one.messages[-1].role == "assistant"]
    if not examples:
        raise DataError(
            f"{path} has no example with an answer",
            hint="let the teacher write answers first: teacher.answers: daemon",
        )
    if limit is None or len(examples) <= limit:
        return examples
    strata = defaultdict(list)
    for one in sorted(examples, key=lambda one: digest_text(one.id)):
        strata[one.label if by_label else None].append(one.id)
    # The middle of a text's share of its stratum: of any limit each stratum has its part, rounded.
    place = {
        name: (number + 0.5) / len(stratum)
        for stratum in strata.values()
        for number, name in enumerate(stratum)
    }
    chosen = set(sorted(place, key=lambda name: (place[name], digest_text(name)))[:limit])
    return [one for one in examples if one.id in chosen]


def teaches_thoughts(corpus: Corpus) -> bool:
    """Whether any answer to be learnt has a thought in front: its label is not said at once."""
    return any(answers_with_thoughts(corpus))


def answers_with_thoughts(corpus: Corpus) -> Iterator[str]:
    """Whole answers of the training split that have a thought in front."""
    path = corpus.split_path("train")
    if path.is_file():
        for example in read_examples(path):
            last = example.messages[-1]
            if last.role == "assistant" and THOUGHT_END in last.content:
                yield last.content


def gold_labels(examples: Sequence[Example], labels: Sequence[str]) -> list[str]:
    """The right answers of a classification.

    Raises:
        DataError: an example's label is none of the task's.
    """
    found = [example.label or "" for example in examples]
    foreign = sorted(set(found) - set(labels))
    if foreign:
        raise DataError(
            f"the test split has the label {foreign[0]!r}, the task has {', '.join(labels)}",
            hint="prepare the corpus with the same recipe",
        )
    return found


def write_predictions(
    path: Path, examples: Sequence[Example], said: Mapping[str, Sequence[str]]
) -> None:
    """A line a text: id, gold label and every model's prediction; no texts."""
    write_json_lines_atomic(
        path,
        (
            {
                "id": example.id,
                "gold": example.label,
                **{name: predictions[place] for name, predictions in said.items()},
            }
            for place, example in enumerate(examples)
        ),
    )
