"""Holds all of a GGUF's vocabulary against the checkpoint's: tokens, types, merges and scores."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from ollama_bridge.verify.certificate import Check
from ollama_bridge.verify.vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    SPACE,
    TYPES,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
)

_MODEL, _TOKENS, _MERGES, _SCORES = (
    f"tokenizer.ggml.{name}" for name in ("model", "tokens", "merges", "scores")
)
_SENTENCEPIECE = "llama"  # of _MODEL
# Found in texts as a whole, before words are split.
_WHOLE = frozenset((UNKNOWN, CONTROL, USER_DEFINED))
_PLACEHOLDER = re.compile(r"[<\[]unused[ _-]?\d*[>\]]", re.IGNORECASE)
# What our converter writes for pieces that no merge makes.
_MERGED_NEVER = -1e9


def check_whole_vocabulary(wanted: Mapping[str, Any], metadata: Mapping[str, Any]) -> Check:
    """All tokens, merges and scores, of which probes use few.

    Args:
        wanted: The tokenizer's keys, as our converter writes them for the checkpoint.
        metadata: The GGUF's metadata.
    """
    tokens, types = wanted[_TOKENS], wanted[TYPES]
    merges, scores = wanted.get(_MERGES, []), wanted.get(_SCORES, [])
    kind, found_kind = wanted.get(_MODEL), metadata.get(_MODEL)
    used = [id_ for id_ in range(len(tokens)) if types[id_] != UNUSED]
    difference = None
    if None not in (kind, found_kind) and kind != found_kind:
        difference = f"{_MODEL} is {found_kind!r} in the GGUF, {kind!r} in the checkpoint"
    difference = difference or _first_other_token(wanted, metadata, used)
    difference = difference or _first_other_merge(merges, metadata.get(_MERGES))
    if scores and kind == _SENTENCEPIECE:
        difference = difference or _first_other_score(wanted, metadata)
    numbers: dict[str, float | int | str] = {"all_tokens": len(used)}
    numbers |= {"scores": len(scores)} if scores else {"merges": len(merges)}
    return Check.of("whole vocabulary", "tokenizer", difference, numbers)


def _first_other_token(
    wanted: Mapping[str, Any], metadata: Mapping[str, Any], used: Sequence[int]
) -> str | None:
    tokens, types = wanted[_TOKENS], wanted[TYPES]
    found = [*metadata.get(_TOKENS, []), *[None] * len(tokens)]
    visible = metadata.get(_MODEL) == _SENTENCEPIECE  # spaces are U+2581, or not: see below
    kinds = _kinds(metadata)
    for id_ in used:
        text, other = tokens[id_], found[id_]
        # Two ways of writing added tokens, see ``vocabulary``.
        spaced = visible and other is not None and SPACE in f"{text}{other}".replace(" ", SPACE)
        if spaced and other.replace(SPACE, " ") == text.replace(SPACE, " "):
            continue
        if other != text:
            shown = "missing" if other is None else repr(other)
            return f"token {id_} is {text!r} in the checkpoint, {shown} in the GGUF"
        if id_ >= len(kinds):
            continue
        if (kinds[id_] in _WHOLE) != (types[id_] in _WHOLE):
            one, two = ("special", "ordinary")[:: 1 if kinds[id_] in _WHOLE else -1]
            return f"token {id_} ({text!r}) is {one} in the GGUF, {two} in the checkpoint"
        if visible and (kinds[id_] == BYTE) != (types[id_] == BYTE):
            one, two = ("a byte", "a text")[:: 1 if kinds[id_] == BYTE else -1]
            return f"token {id_} ({text!r}) is {one} in the GGUF, {two} in the checkpoint"
        if kinds[id_] == UNUSED and types[id_] == NORMAL and not _PLACEHOLDER.fullmatch(text):
            return f"token {id_} ({text!r}) is unused in the GGUF: Ollama prints nothing of it"
    return None


def _kinds(metadata: Mapping[str, Any]) -> Sequence[int]:
    """Types as a runtime takes them: pieces without any are texts, the bytes and ends too."""
    kinds: Sequence[int] = metadata.get(TYPES) or []
    if not kinds and metadata.get(_MODEL) == _SENTENCEPIECE:
        return [NORMAL] * len(metadata.get(_TOKENS, []))
    return kinds


def _first_other_merge(wanted: Sequence[str], found: Sequence[str] | None) -> str | None:
    if found is None or list(found) == list(wanted):
        return None
    counts = f"of {len(wanted)} in the checkpoint, {len(found)} in the GGUF"
    for index, (one, other) in enumerate(zip(wanted, found, strict=False)):
        if one != other:
            return f"merge {index} is {one!r} in the checkpoint, {other!r} in the GGUF ({counts})"
    return f"merges are lost or added at the end: {counts}"


def _first_other_score(wanted: Mapping[str, Any], metadata: Mapping[str, Any]) -> str | None:
    """Their order alone counts: pieces of higher scores are put together first.

    Ranks of merges stand for scores that are lost. Pieces that are found as a whole have any.
    """
    tokens, types, scores = wanted[_TOKENS], wanted[TYPES], wanted[_SCORES]
    found, kinds = metadata.get(_SCORES) or [], _kinds(metadata)
    if len(found) < len(tokens):
        return f"{_SCORES} has {len(found)} of {len(tokens)} scores, by which texts are split"
    merged = [
        id_
        for id_, type_ in enumerate(types)
        if type_ == NORMAL == kinds[id_] and scores[id_] > _MERGED_NEVER
    ]
    merged.sort(key=lambda id_: scores[id_], reverse=True)
    if len({scores[id_] for id_ in merged}) > 1 == len({found[id_] for id_ in merged}):
        return f"{_SCORES} are all {found[merged[0]]:g}: texts are split in no order"
    before = None
    for _, alike in groupby(merged, key=lambda id_: scores[id_]):
        group = list(alike)
        best = max(group, key=lambda id_: found[id_])
        if before is not None and found[best] > found[before]:
            return (
                f"token {best} ({tokens[best]!r}) is put together before token {before} "
                f"({tokens[before]!r}) by the scores in the GGUF, behind it in the checkpoint"
            )
        before = min(group, key=lambda id_: found[id_])
    return None
