"""A vocabulary cut down to the tokens that some texts use, with the tokenizer kept exact.

A BPE tokenizer begins with characters (bytes) and merges neighbours, the merge that stands first
in its list first. Leave out merges, and a text whose own merges all stay is put together by the
same steps as before: at each step the first merge of the list that applies is one that stays. So
the texts keep their tokens. Any other text still begins with the same bytes and becomes shorter
tokens: nothing is lost.

What a token is put together from can be asked of the token alone, because no merge reaches over
the end of a token that stays one.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

from ollama_bridge.encoding.encode import Tokenizer, ids_digest, tokenizer_digest
from ollama_bridge.errors import ConfigError
from ollama_bridge.models.load import load_tokenizer
from ollama_bridge.models.settings.json_files import read_json_object

_SPACE = "\u2581"  # SentencePiece's visible space: written before bytes are looked at
_HINT = "set student.vocabulary to full"
_CHUNK_TEXTS = 4096

Ids = np.ndarray[Any, np.dtype[np.int64]]
Merge = tuple[str, str]


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer with fewer tokens, and what they were called before.

    Attributes:
        tokenizer: The trimmed one; everything else of it is as it was.
        source_ids: (tokens,) int64, rising: the old id of each new one.
        source_digest: Of the tokenizer that it was made from (``encode.tokenizer_digest``).
        source_ids_digest: Of what decides its ids alone (``encode.ids_digest``).
    """

    tokenizer: Tokenizer
    source_ids: Ids
    source_digest: str
    source_ids_digest: str

    def new_ids(self, size: int) -> Ids:
        """(size,) int64: the new id of each old one, -1 of those that are left out.

        Args:
            size: Rows of the old embedding.
        """
        new = np.full(size, -1, dtype=np.int64)
        new[self.source_ids] = np.arange(len(self.source_ids))
        return new


def trim_tokenizer(
    tokenizer: Tokenizer, texts: Sequence[str], *, also: Collection[int] = ()
) -> Vocabulary:
    """Keep the tokens that texts use, what these are merged from, all bytes and all added tokens.

    Args:
        tokenizer: A byte-level BPE, or a BPE with bytes to fall back to.
        texts: Keep their tokens exactly.
        also: More ids to keep.

    Raises:
        ConfigError: another kind of tokenizer, or one that would treat the texts otherwise.
    """
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        path = Path(folder) / "tokenizer.json"
        document = read_json_object(path)
        cut = _Cut(document)
        before = list(_encoded(tokenizer, texts))
        used = {int(id_) for ids in before for id_ in np.unique(ids)}
        kept = cut.closed({*used, *also})
        path.write_text(json.dumps(cut.document(kept), ensure_ascii=False), encoding="utf-8")
        trimmed = load_tokenizer(Path(folder))
    vocabulary = Vocabulary(
        trimmed,
        np.array(kept, dtype=np.int64),
        tokenizer_digest(tokenizer),
        ids_digest(tokenizer),
    )
    _check_names(tokenizer, vocabulary)
    for text, old, new in zip(texts, before, _encoded(trimmed, texts), strict=True):
        if not np.array_equal(vocabulary.source_ids[new], old):
            raise ConfigError(
                f"with fewer tokens this tokenizer would split {text[:40]!r}... differently",
                hint=_HINT,
            )
    return vocabulary


class _Cut:
    """A ``tokenizer.json`` and the tokens that it could do without."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._model: Mapping[str, Any] = document["model"]
        self._check_kind()
        self._ids: dict[str, int] = self._model["vocab"]
        self._tokens = {id_: token for token, id_ in self._ids.items()}
        merges = [
            tuple(merge.split(" ") if isinstance(merge, str) else merge)
            for merge in self._model["merges"]
        ]
        self._ranks: dict[Merge, int] = {}
        for rank, (left, right) in enumerate(merges):
            self._ranks.setdefault((left, right), rank)

    def closed(self, used: Iterable[int]) -> list[int]:
        """The tokens to keep, rising, where these are used."""
        names = set(self._always())
        for id_ in used:
            if id_ in self._tokens:
                names |= self._pieces(self._tokens[id_])
        added = {token["id"] for token in self._document.get("added_tokens") or ()}
        return sorted({self._ids[name] for name in names} | added)

    def document(self, kept: Sequence[int]) -> dict[str, Any]:
        """The ``tokenizer.json`` of these tokens."""
        new = {old: place for place, old in enumerate(kept)}
        vocab = {token: new[id_] for token, id_ in self._ids.items() if id_ in new}
        merges = [
            [left, right]
            for left, right in self._ranks
            # More merges than the texts need do no harm, and split other texts as before.
            if left in vocab and right in vocab and left + right in vocab
        ]
        padding = self._document.get("padding")
        return {
            **self._document,
            "added_tokens": [
                {**token, "id": new[token["id"]]}
                for token in self._document.get("added_tokens") or ()
            ],
            "padding": padding and {**padding, "pad_id": new.get(padding["pad_id"], 0)},
            "post_processor": _renumbered(self._document.get("post_processor"), new),
            "model": {**self._model, "vocab": vocab, "merges": merges},
        }

    def _check_kind(self) -> None:
        kind = self._model.get("type")
        if kind != "BPE":
            raise ConfigError(
                f"the vocabulary of a {kind} tokenizer cannot be cut: it could not be exported "
                "either, only BPE can",
                hint=_HINT,
            )
        for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
            if self._model.get(key):
                raise ConfigError(f"a BPE with {key} cannot be cut", hint=_HINT)
        self._has_fallback = bool(self._model.get("byte_fallback"))
        if not self._has_fallback and not _has_step(self._document, "ByteLevel"):
            raise ConfigError(
                "the vocabulary cannot be cut: this tokenizer does not go down to bytes, so text "
                "without a token would be lost",
                hint=_HINT,
            )

    def _always(self) -> list[str]:
        """Bytes, and what stands for tokens that are none."""
        if not self._has_fallback:
            return [byte for byte in ByteLevel.alphabet() if byte in self._ids]
        names = [f"<0x{byte:02X}>" for byte in range(256)]
        missing = [name for name in names if name not in self._ids]
        if missing:
            raise ConfigError(
                f"the vocabulary cannot be cut: {missing[0]} and {len(missing) - 1} more bytes are "
                "missing, so text without a token would be lost",
                hint=_HINT,
            )
        names += [name for name in (self._model.get("unk_token"), _SPACE) if name in self._ids]
        return names

    def _pieces(self, token: str) -> set[str]:
        """A token and everything that it is put together from, merge by merge."""
        found = {token}
        parts = list(token)
        while len(parts) > 1:
            ranked = [
                (self._ranks[pair], place)
                for place, pair in enumerate(pairwise(parts))
                if pair in self._ranks
            ]
            if not ranked:  # it is looked up whole (ignore_merges), or is no text
                return {token}
            place = min(ranked)[1]
            found |= {parts[place], parts[place + 1], parts[place] + parts[place + 1]}
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        return found


def _encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterable[Ids]:
    for start in range(0, len(texts), _CHUNK_TEXTS):
        part = list(texts[start : start + _CHUNK_TEXTS])
        for ids in tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]:
            yield np.array(ids, dtype=np.int64)


def _check_names(source: Tokenizer, vocabulary: Vocabulary) -> None:
    """Make sure that the library numbers the kept tokens as they were numbered here."""
    old = source.convert_ids_to_tokens(vocabulary.source_ids.tolist())
    new = vocabulary.tokenizer.convert_ids_to_tokens(list(range(len(old))))
    if old != new or len(vocabulary.tokenizer) != len(old):
        raise ConfigError(
            "the vocabulary cannot be cut: added tokens lie between the others", hint=_HINT
        )


def _renumbered(processor: Any, new: Mapping[int, int]) -> Any:
    """A post-processor whose special tokens have their new ids."""
    if not isinstance(processor, dict):
        return processor
    if processor.get("type") == "Sequence":
        return {
            **processor,
            "processors": [_renumbered(step, new) for step in processor["processors"]],
        }
    if processor.get("type") == "TemplateProcessing":
        special = {
            name: {**entry, "ids": [new[id_] for id_ in entry["ids"]]}
            for name, entry in processor["special_tokens"].items()
        }
        return {**processor, "special_tokens": special}
    if processor.get("type") == "ByteLevel":
        return processor
    raise ConfigError(
        f"the vocabulary cannot be cut: ids in a {processor.get('type')} are not known",
        hint=_HINT,
    )


def _has_step(document: Mapping[str, Any], kind: str) -> bool:
    section = document.get("pre_tokenizer") or {}
    steps = section.get("pretokenizers") or [section]
    return any(step.get("type") == kind for step in steps)
