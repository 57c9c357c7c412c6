"""The splits of a corpus that get soft labels: their examples, and the tokens of these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ollama_bridge.encoding.encode import EncodedSplit, Tokenizer, encode_split
from ollama_bridge.examples import Example, read_examples
from ollama_bridge.storage.artifacts import Corpus

SPLITS = ("train", "validation")


@dataclass(frozen=True)
class CorpusSplit:
    """A split as it was written, and as a model reads it.

    Attributes:
        examples: All of them; an encoded one knows its place here (``row``).
        encoded: Those that are short enough.
    """

    examples: list[Example]
    encoded: EncodedSplit


def read_splits(corpus: Corpus, tokenizer: Tokenizer, *, max_length: int) -> dict[str, CorpusSplit]:
    """The splits by name.

    Raises:
        DataError: a split has no usable example.
        TrainingError: the chat template cannot be used for training.
    """
    splits = {}
    for name in SPLITS:
        examples = list(read_examples(corpus.split_path(name)))
        encoded = encode_split(examples, tokenizer, max_length=max_length, name=name)
        splits[name] = CorpusSplit(examples, encoded)
    return splits


def counts_of(splits: Mapping[str, CorpusSplit]) -> dict[str, object]:
    """For the manifest: usable examples, their supervised tokens, and what was too long."""
    counts: dict[str, object] = {}
    for name, split in splits.items():
        counts[f"{name}_examples"] = len(split.encoded.examples)
        counts[f"{name}_tokens"] = split.encoded.supervised_tokens
        counts[f"{name}_too_long"] = split.encoded.too_long
    return counts
