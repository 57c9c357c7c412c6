"""The texts on which a quality budget is spent, measured and recorded.

Held-out texts of a corpus as the chat template renders them, in two halves: types are chosen on
one, and what is reported comes from the other. Without a corpus the model answers synthetic
prompts by itself, once for each half.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ollama_bridge.digests import digest_text
from ollama_bridge.encoding.encode import encode_split
from ollama_bridge.errors import DataError
from ollama_bridge.examples import read_examples
from ollama_bridge.models.reference.scored_texts import Text
from ollama_bridge.models.reference.texts import TextSide
from ollama_bridge.models.settings.end_tokens import end_ids
from ollama_bridge.reference import ReferenceValues
from ollama_bridge.storage.artifacts import Corpus

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

_MAX_LENGTH = 512  # tokens; longer examples are left out
_ANSWER_TOKENS = 32
_SEEDS = (1, 2)
OWN_ANSWERS = "the model's own answers to synthetic prompts"


@dataclass(frozen=True)
class BudgetTexts:
    """Half to measure what each matrix costs, half to report on, and what they are, for people."""

    chosen_on: list[Text]
    reported_on: list[Text]
    source: str


def corpus_texts(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, *, positions: int
) -> BudgetTexts:
    """Texts of a corpus' validation split.

    What all of them begin with, such as a system prompt, counts in none. The halves do not share a
    source document.

    Each half has at most so many positions.

    Raises:
        DataError: there are not enough texts for two halves.
    """
    path = corpus.split_path("validation")
    # By digest, for the file is sorted by source.
    examples = sorted(read_examples(path), key=lambda one: (digest_text(one.group), one.id))
    split = encode_split(examples, tokenizer, max_length=_MAX_LENGTH, name="validation")
    encoded = [tuple(map(int, one.input_ids)) for one in split.examples]
    groups = [examples[one.row].group for one in split.examples]
    middle = len(encoded) // 2
    while 0 < middle < len(groups) and groups[middle] == groups[middle - 1]:
        middle += 1
    shared = _shared(encoded)
    # The last token of the shared part is the first after which predictions differ.
    texts = [Text(ids[:-1], len(ids) - max(shared, 1)) for ids in encoded]
    chosen_on = _first(texts[:middle], positions)
    reported_on = _first(texts[middle:], positions)
    if not chosen_on or not reported_on:
        raise DataError(
            f"{path} has too few texts: a budget needs some to choose types on, and others, from "
            "other sources, to measure the result on",
            hint="prepare a corpus with a larger validation split, or leave out --corpus",
        )
    source = f"held-out texts of corpus {corpus.digest[:12]}"
    return BudgetTexts(chosen_on, reported_on, source)


def own_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[Sequence[int]],
    *,
    positions: int,
) -> BudgetTexts:
    """What the model itself answers to prompts, drawn from its own distribution.

    Each half has at most so many positions.
    """
    ends = end_ids(model, tokenizer)
    chosen_on, reported_on = (
        _first(_answers(model, prompts, ends, seed), positions) for seed in _SEEDS
    )
    return BudgetTexts(chosen_on, reported_on, OWN_ANSWERS)


def prompts_of(folder: Path, tokenizer: PreTrainedTokenizerFast) -> list[tuple[int, ...]]:
    """Token ids of the synthetic conversations that a daemon is probed with."""
    recorded = folder / "reference.json"
    if recorded.is_file():
        values = ReferenceValues.read(recorded)
        return [conversation.token_ids for conversation in values.conversations]
    probes = TextSide(tokenizer, folder, system=None).conversations(longest=_MAX_LENGTH)
    return [tuple(ids) for _, _, ids in probes.values()]


def probe_texts(folder: Path, tokenizer: PreTrainedTokenizerFast) -> list[Text]:
    """The places at which a daemon will be held against the reference values; none without them."""
    recorded = folder / "reference.json"
    if not recorded.is_file():
        return []
    values = ReferenceValues.read(recorded)
    texts = [Text(conversation.token_ids, 1) for conversation in values.conversations]
    for answer in values.answers:
        ids = tokenizer(answer.text, add_special_tokens=False).input_ids
        prompt = values.conversation(answer.conversation).token_ids
        texts.append(Text((*prompt, *ids), len(ids) + 1))
    return texts


def _shared(encoded: Sequence[tuple[int, ...]]) -> int:
    """Tokens that all texts begin with; none where there are no two texts."""
    first, last = min(encoded), max(encoded)
    if first == last:
        return 0
    return next(
        (at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first)
    )


def _first(texts: Sequence[Text], positions: int) -> list[Text]:
    """Texts from the front, until there are enough positions."""
    found: list[Text] = []
    left = positions
    for text in texts:
        if text.keep > 0 and left > 0:
            found.append(Text(text.token_ids, min(text.keep, left)))
            left -= text.keep
    return found


@torch.inference_mode()
def _answers(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], ends: Collection[int], seed: int
) -> list[Text]:
    from transformers import GenerationConfig

    longest = max(len(prompt) for prompt in prompts)
    ids = torch.zeros((len(prompts), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    settings = GenerationConfig(
        do_sample=True,
        top_k=0,
        max_new_tokens=_ANSWER_TOKENS,
        eos_token_id=sorted(ends) or None,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn: Any = model.generate(  # type: ignore[operator]
            input_ids=ids, attention_mask=mask, generation_config=settings
        )
    texts = []
    for prompt, answer in zip(prompts, drawn[:, longest:].tolist(), strict=True):
        length = next((at for at, token in enumerate(answer) if token in ends), len(answer))
        texts.append(Text((*prompt, *answer[:length]), length + 1))
    return texts
