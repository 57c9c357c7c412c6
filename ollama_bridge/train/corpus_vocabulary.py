"""The tokens that a corpus uses."""

from __future__ import annotations

from pathlib import Path

from ollama_bridge.encoding.turn_texts import rendered_texts
from ollama_bridge.examples import Example, Message, read_examples
from ollama_bridge.models.load import load_tokenizer
from ollama_bridge.models.pruning.tokens import check_generation_config, token_ids_of
from ollama_bridge.models.pruning.vocabulary import Vocabulary, trim_tokenizer
from ollama_bridge.models.settings.generation_defaults import (
    GENERATION_CONFIG,
    read_generation_config,
)
from ollama_bridge.models.settings.json_files import read_json_object
from ollama_bridge.storage.artifacts import Corpus

_CONFIGS = ("config.json", GENERATION_CONFIG)


def corpus_vocabulary(
    start: Path, corpus: Corpus, *, system: str | None, labels: tuple[str, ...]
) -> Vocabulary:
    """The vocabulary of a student that only has to do with one corpus.

    Its tokens are those of the training and validation texts as the chat template renders them,
    of the system prompt and the labels, and all special tokens and bytes. Held-out texts are not
    looked at.

    Raises:
        ConfigError: the tokenizer cannot be trimmed and stay exact.
        DataError: an example begins with the assistant.
        TrainingError: the chat template cannot be used for training.
        ModelError: the tokenizer cannot be loaded.
    """
    tokenizer = load_tokenizer(start)
    texts: dict[str, None] = {}  # prompts come often
    for name in ("train", "validation"):
        for example in read_examples(corpus.split_path(name)):
            if example.is_answered:  # the others are left out in training
                texts.update(dict.fromkeys(rendered_texts(example, tokenizer)))
    for example in _frames(system, labels):
        texts.update(dict.fromkeys(rendered_texts(example, tokenizer)))
    return trim_tokenizer(tokenizer, list(texts), also=_roles(start))


def check_vocabulary(start: Path) -> None:
    """Make sure that a vocabulary can be trimmed, as far as no text is needed to know it.

    Raises:
        ConfigError: the tokenizer cannot be trimmed and stay exact, or a config names tokens in a
            way that cannot be renumbered.
        ModelError: the tokenizer cannot be loaded.
    """
    check_generation_config(read_generation_config(start))
    trim_tokenizer(load_tokenizer(start), (), also=_roles(start))


def _roles(start: Path) -> set[int]:
    """Ids that have a role, such as the end tokens."""
    roles: set[int] = set()
    for name in _CONFIGS:
        if (start / name).is_file():
            roles |= token_ids_of(read_json_object(start / name))
    return roles


def _frames(system: str | None, labels: tuple[str, ...]) -> list[Example]:
    """What is written around every text, with and without the system prompt."""
    turns = [(Message("user", "?"), Message("assistant", label)) for label in labels or ("!",)]
    frames = [Example("frame", turn, "frame") for turn in turns]
    if system is not None:
        frames += [Example("frame", (Message("system", system), *turn), "frame") for turn in turns]
    return frames
