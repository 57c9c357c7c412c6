"""Chat examples as token ids and the positions that are to be learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ollama_bridge.digests import canonical_json, digest_text
from ollama_bridge.encoding.turn_texts import Ends, turn_texts
from ollama_bridge.errors import DataError, TrainingError
from ollama_bridge.examples import Example

Tokenizer = Any  # transformers' fast tokenizer; its classes carry no useful types

# A few that nobody answered are no reason to learn nothing of the others: five, or this share.
_FEW = 5
_FEW_SHARE = 0.05
END_HINT = (
    "write {{ eos_token }} behind each answer in the checkpoint's chat_template.jinja, behind the "
    "last one too, or use a checkpoint whose chat template does"
)
_CHUNK_EXAMPLES = 1024  # bounds the memory of the texts that are tokenized in one call
# Rendered by `tokenizer_digest`: two tokenizers that agree on it agree on merges and splits.
_PROBE = "Größe 1234567890, it's   <|im_end|> 😀こんにちは\n\n\tdef f(x): return x"


@dataclass(frozen=True)
class EncodedExample:
    """One conversation as the model reads it.

    Attributes:
        row: Its number in the split file, from 0.
        input_ids: (tokens,) int32.
        supervised: (tokens,) bool; True where the model has to predict the token.
        turns: Assistant turns that are learnt.
        ended_turns: Of these, how many have a supervised end token.
        label: The right answer of a classification, None for free text.
    """

    row: int
    input_ids: np.ndarray[Any, np.dtype[np.int32]]
    supervised: np.ndarray[Any, np.dtype[np.bool_]]
    turns: int
    ended_turns: int
    label: str | None = None

    @property
    def targets(self) -> np.ndarray[Any, np.dtype[np.intp]]:
        """Positions of the tokens to predict; position - 1 predicts them."""
        return np.flatnonzero(self.supervised)

    @property
    def stretches(self) -> list[np.ndarray[Any, np.dtype[np.intp]]]:
        """``targets`` in pieces that follow each other without a gap: a turn each."""
        targets = self.targets
        if not len(targets):
            return []
        return np.split(targets, np.flatnonzero(np.diff(targets) > 1) + 1)


@dataclass(frozen=True)
class EncodedSplit:
    """A split that is ready for training, and what was left out.

    Attributes:
        examples: In the order of the split file.
        too_long: How many examples were longer than the limit.
        longest: Tokens of the longest example, also where it was left out.
        unanswered: How many examples had nothing to learn.
    """

    examples: tuple[EncodedExample, ...]
    too_long: int
    longest: int
    unanswered: int

    @property
    def supervised_tokens(self) -> int:
        """Tokens to predict."""
        return sum(int(example.supervised.sum()) for example in self.examples)

    @property
    def tokens(self) -> int:
        """All tokens."""
        return sum(len(example.input_ids) for example in self.examples)


def encode(example: Example, tokenizer: Tokenizer) -> EncodedExample:
    """Token ids of one conversation, however many, and which of them are to be learnt.

    Args:
        example: Has at least one assistant turn.
        tokenizer: The checkpoint's own, with its chat template.

    Raises:
        DataError: no answer in it.
        TrainingError: the chat template fails or cannot be used for training.
    """
    return _encode_many([(0, example)], tokenizer)[0]


def encode_split(
    examples: Sequence[Example], tokenizer: Tokenizer, *, max_length: int, name: str
) -> EncodedSplit:
    """Encode a whole split; examples that are too long, or a few without an answer, are left out.

    Args:
        examples: All rows of the split file, in order.
        tokenizer: The checkpoint's own.
        max_length: Limit in tokens.
        name: Of the split, for messages.

    Raises:
        DataError: more than a few examples have no answer, or nothing is left.
        TrainingError: nothing would be learnt, or no turn would learn to end.
    """
    numbered = [(row, example) for row, example in enumerate(examples) if example.is_answered]
    unanswered = len(examples) - len(numbered)
    if not numbered or unanswered > max(_FEW, _FEW_SHARE * len(examples)):
        numbered = list(enumerate(examples))  # the first of them is named
    kept = []
    for start in range(0, len(numbered), _CHUNK_EXAMPLES):
        kept += _encode_many(numbered[start : start + _CHUNK_EXAMPLES], tokenizer)
    total, longest = len(kept), max((len(one.input_ids) for one in kept), default=0)
    shortest = min((len(one.input_ids) for one in kept), default=0)
    kept = [example for example in kept if len(example.input_ids) <= max_length]
    split = EncodedSplit(
        tuple(kept), too_long=total - len(kept), longest=longest, unanswered=unanswered
    )
    if not kept:
        raise DataError(
            f"the {name} split has no example of at most {max_length} tokens "
            f"({total} rows, the shortest of {shortest}, the longest of {longest})",
            hint=f"--set distill.max_length={longest}, of finetune --set "
            f"teacher.tune.max_length={longest}, keeps them all; or shorten the texts",
        )
    if split.supervised_tokens == 0:
        raise TrainingError(
            f"none of the {split.tokens} tokens of the {name} split would be trained on: the chat "
            "template renders no answer of the assistant (0 % are supervised)",
            hint="check that the chat template renders the assistant's answers",
        )
    if not any(example.ended_turns for example in kept):
        raise TrainingError(
            f"no assistant turn of the {name} split ends on an end token: the model would learn "
            "to answer but never to stop",
            hint=END_HINT,
        )
    return split


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """sha256 (hex) of what decides token ids and which are learnt: ids, and eos."""
    content = {**_what_decides_ids(tokenizer), "eos": tokenizer.eos_token_id}
    return digest_text(canonical_json(content))


def ids_digest(tokenizer: Tokenizer) -> str:
    """sha256 (hex) of what decides token ids alone: vocabulary, splits, chat template.

    An instruct model has another eos than its base, and may read every token of it.
    """
    return digest_text(canonical_json(_what_decides_ids(tokenizer)))


def _what_decides_ids(tokenizer: Tokenizer) -> dict[str, object]:
    return {
        "vocab": sorted(tokenizer.get_vocab().items()),
        "template": tokenizer.chat_template,
        "probe": list(tokenizer(_PROBE, add_special_tokens=False)["input_ids"]),
    }


def _encode_many(
    numbered: Sequence[tuple[int, Example]], tokenizer: Tokenizer
) -> list[EncodedExample]:
    # All texts go through the tokenizer in one call: it works in parallel then.
    texts: list[str] = []
    counts: list[int] = []
    ends = Ends(tokenizer)
    for _, example in numbered:
        text, turns = turn_texts(example, tokenizer, ends)
        texts += [text, *(part for turn in turns for part in turn)]
        counts.append(1 + 2 * len(turns))
    ids = list(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])
    special = {
        id_: str(token) for id_, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    encoded = []
    place = 0
    for (row, example), count in zip(numbered, counts, strict=True):
        own = slice(place, place := place + count)
        input_ids, *bounds = _as_asked(texts[own], ids[own], tokenizer)
        turns_count = len(bounds) // 2
        answers = [one.content for one in example.messages if one.role == "assistant"]
        if any(one.calls for one in example.messages):  # whose marks may be special tokens
            answers += texts[own][2::2]
        supervised = np.zeros(len(input_ids), dtype=np.bool_)
        ended = 0
        for before, through in zip(bounds[::2], bounds[1::2], strict=True):
            start = _common_length(before, input_ids, inside=True)
            stop = _common_length(through, input_ids, inside=False)
            end = _end_position(input_ids[start:stop], ends.ids, special, said=answers)
            if end is not None:
                ended += 1
                stop = start + end + 1  # what the template writes behind the end is not learnt
            supervised[start:stop] = True
        supervised[:1] = False  # nothing precedes the first token that could predict it
        encoded.append(
            EncodedExample(
                row=row,
                input_ids=np.asarray(input_ids, dtype=np.int32),
                supervised=supervised,
                turns=turns_count,
                ended_turns=ended,
                label=example.label,
            )
        )
    return encoded


def _as_asked(
    texts: Sequence[str], ids: Sequence[list[int]], tokenizer: Tokenizer
) -> Sequence[list[int]]:
    """Token ids of a conversation such that its only answer stands behind the prompt's own ids.

    Whoever asks tokenizes the prompt alone. Where the answer begins with what merges with the
    prompt's end (an empty thought: ``<think>`` and two line ends), the whole text has another token
    there, which a model that is asked never sees.

    Args:
        texts: The whole conversation, up to its answer, and through it.
        ids: Of each of them.
        tokenizer: Cuts the answer.

    Returns:
        ``ids``, or where they had to be cut anew others in their place.
    """
    if len(ids) != 3 or ids[0][: len(ids[1])] == ids[1]:
        return ids
    before = len(texts[1])
    behind = tokenizer([texts[0][before:], texts[2][before:]], add_special_tokens=False)
    whole, through = ([*ids[1], *answer] for answer in behind["input_ids"])
    # Some tokenizers cannot cut a piece of a text: they put a blank in front.
    same = tokenizer.decode(whole, clean_up_tokenization_spaces=False) == tokenizer.decode(
        ids[0], clean_up_tokenization_spaces=False
    )
    return [whole, ids[1], through] if same else ids


def _common_length(prefix: Sequence[int], ids: Sequence[int], *, inside: bool) -> int:
    """How many tokens of ``ids`` lie in the prefix's text.

    A token that reaches over the prefix's end (the tokenizer merged across it) counts when
    ``inside``: it was begun by the prompt, so the model never has to say it.
    """
    differing = (left != right for left, right in zip(prefix, ids, strict=False))
    common = next((place for place, differs in enumerate(differing) if differs), None)
    if common is None:
        return min(len(prefix), len(ids))
    return common + 1 if inside else common


def _end_position(
    ids: Sequence[int], ends: frozenset[int], special: Mapping[int, str], *, said: Sequence[str]
) -> int | None:
    """Where the turn ends: the first token that ends an answer, else its first special one.

    What an answer says itself ends none, such as the marks of a thought.
    """
    found = next((place for place, token in enumerate(ids) if token in ends), None)
    if found is not None:
        return found
    marks = (place for place, token in enumerate(ids) if token in special)
    return next(
        (place for place in marks if not any(special[ids[place]] in one for one in said)), None
    )
