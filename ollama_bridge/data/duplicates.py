"""Exact and near duplicates: which texts to leave out so that no text is in two splits.

Near duplicates are found exactly, not by sampled hashes: a set-similarity join with prefix and
length filters, so the same texts always give the same answer.

Source: Chaudhuri, Ganti, Kaushik, "A Primitive Operator for Similarity Joins in Data Cleaning"
(ICDE 2006): two sets of Jaccard similarity t share k of their ``|x| - ceil(t |x|) + k`` rarest
elements.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ollama_bridge.data.candidates import Candidate
from ollama_bridge.data.cleaning import text_key

# Looked at on the rated snippets: above it, pairs differ in a name, a number or one word.
NEAR_THRESHOLD = 0.8
_GRAM_CHARS = 4
# The k of the filter. More of them: fewer pairs to compare, longer lists to go through.
_SHARED_RARE_GRAMS = 4


@dataclass(frozen=True)
class Deduplicated:
    """What is left, and what went.

    Attributes:
        kept: In the order given; of several duplicates the first.
        exact: Left out for saying the same as an earlier one, but for case and punctuation.
        near: Left out for nearly saying so.
        contradictory: Left out, all of them, for saying the same under different labels.
    """

    kept: tuple[Candidate, ...]
    exact: tuple[Candidate, ...]
    near: tuple[Candidate, ...]
    contradictory: tuple[Candidate, ...]


def remove_duplicates(
    candidates: Sequence[Candidate], *, threshold: float = NEAR_THRESHOLD
) -> Deduplicated:
    """Leave out duplicates; deterministic."""
    keys = [text_key(candidate.text) for candidate in candidates]
    labels: dict[str, set[str | None]] = defaultdict(set)
    for key, candidate in zip(keys, candidates, strict=True):
        labels[key].add(candidate.example.label)
    first: list[Candidate] = []
    first_keys: list[str] = []
    exact, contradictory = [], []
    seen = set()
    for key, candidate in zip(keys, candidates, strict=True):
        if len(labels[key]) > 1:
            contradictory.append(candidate)
        elif key in seen:
            exact.append(candidate)
        else:
            seen.add(key)
            first.append(candidate)
            first_keys.append(key)
    originals = near_duplicates(first_keys, threshold=threshold)
    kept = [one for one, original in zip(first, originals, strict=True) if original is None]
    near = [one for one, original in zip(first, originals, strict=True) if original is not None]
    return Deduplicated(tuple(kept), tuple(exact), tuple(near), tuple(contradictory))


def near_duplicates(keys: Sequence[str], *, threshold: float) -> list[int | None]:
    """For every text the place of an earlier kept text that it nearly repeats, or None.

    Args:
        keys: Normalised texts.
        threshold: Jaccard similarity of their sets of character 4-grams, in (0, 1].
    """
    grams = [_grams(key) for key in keys]
    frequency = Counter(gram for own in grams for gram in own)
    index: dict[str, list[int]] = defaultdict(list)
    shared_needed: list[int] = []
    originals: list[int | None] = []
    for place, own in enumerate(grams):
        needed = math.ceil(threshold * len(own))  # grams that a near duplicate has in common
        shared_needed.append(min(_SHARED_RARE_GRAMS, needed))
        rarest = sorted(own, key=lambda gram: (frequency[gram], gram))
        prefix = rarest[: len(own) - needed + shared_needed[place]]
        rivals = Counter(rival for gram in prefix for rival in index[gram])
        original = None
        for rival in sorted(rivals):
            other = grams[rival]
            if rivals[rival] < min(shared_needed[place], shared_needed[rival]):
                continue
            if min(len(own), len(other)) < threshold * max(len(own), len(other)):
                continue
            common = len(own & other)
            if common >= threshold * (len(own) + len(other) - common):
                original = rival
                break
        originals.append(original)
        if original is None:
            for gram in prefix:
                index[gram].append(place)
    return originals


def _grams(key: str) -> frozenset[str]:
    if len(key) <= _GRAM_CHARS:
        return frozenset({key})
    return frozenset(key[i : i + _GRAM_CHARS] for i in range(len(key) - _GRAM_CHARS + 1))
