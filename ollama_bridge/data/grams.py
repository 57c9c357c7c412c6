"""Texts as sets of character 4-grams, and a filter that finds sets which may be similar.

Grams are numbers, made anew when they are needed, so what is held of a text is its few rarest
grams and a short signature.

Source: Chaudhuri, Ganti, Kaushik, "A Primitive Operator for Similarity Joins in Data Cleaning"
(ICDE 2006): two sets of Jaccard similarity t share k of their ``|x| - ceil(t |x|) + k`` rarest
elements. Sandes, Teodoro, Melo, "Bitmap Filter: Speeding up Exact Set Similarity Joins with
Bitwise Operations" (Information Systems 88, 2020): signatures differ in no more bits than the sets
in elements.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

_GRAM_CHARS = 4
# The k of the filter. More of them: fewer pairs to compare, longer lists to go through.
_SHARED_RARE_GRAMS = 4
# Rare and frequent grams are told apart by counts in buckets; which ones share a bucket changes the
# speed, not the result. There is one for a few characters, up to so many.
_MAX_BUCKET_BITS = 22
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, odd
_CHARS_COUNTED_AT_ONCE = 1 << 15
_SIGNATURE_BITS = 10  # 2**10 bits: enough for texts of a few thousand characters

Grams = np.ndarray[Any, np.dtype[np.uint64]]
Places = np.ndarray[Any, np.dtype[np.signedinteger[Any]]]


class GramSets:
    """The gram sets of some texts. One of fewer than 4 characters is a single gram.

    Args:
        texts: Normalised.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        alphabet = np.array(sorted(map(ord, set().union(*texts))), np.int64)
        # 16 bits a character: of more than 65,535 different ones the last count as one.
        self._codes = np.zeros(alphabet[-1] + 1 if len(alphabet) else 1, np.uint64)
        self._codes[alphabet] = np.minimum(np.arange(1, len(alphabet) + 1), 0xFFFF)
        bits = min(_MAX_BUCKET_BITS, max(1, sum(map(len, texts)).bit_length() - 2))
        self._shift = np.uint64(64 - bits)
        self._frequency = np.zeros(1 << bits, np.int32)
        for part in self._parts():
            np.add.at(self._frequency, self._buckets(self._all(part)), 1)

    def __len__(self) -> int:
        """How many texts there are."""
        return len(self.texts)

    def of(self, place: int) -> Grams:
        """The grams of a text, sorted."""
        grams = self._all(self.texts[place])
        grams.sort()
        return grams[np.concatenate(([True], grams[1:] != grams[:-1]))]

    def are_similar(self, place: int, other: int, *, threshold: float) -> bool:
        """Whether the Jaccard similarity of two texts is at least the threshold."""
        if self.texts[place] == self.texts[other]:
            return True
        left, right = self.of(place), self.of(other)
        common = len(np.intersect1d(left, right, assume_unique=True))
        return common >= threshold * (len(left) + len(right) - common)

    def rarest_first(self, grams: Grams) -> Grams:
        """In an order that is the same for all texts."""
        return grams[np.argsort(self._frequency[self._buckets(grams)], kind="stable")]

    def signature(self, grams: Grams) -> Grams:
        """Of each of some groups of grams, whether a set has an odd number of it; packed bits."""
        groups = ((grams * _SPREAD) >> np.uint64(64 - _SIGNATURE_BITS)).astype(np.int64)
        odd = np.bincount(groups, minlength=1 << _SIGNATURE_BITS) & 1
        return np.packbits(odd.astype(np.uint8)).view(np.uint64)

    def _parts(self) -> Iterator[str]:
        """All texts, many at once; grams across their borders do no harm to counts."""
        start = size = 0
        for end, text in enumerate(self.texts, start=1):
            size += len(text)
            if size >= _CHARS_COUNTED_AT_ONCE or end == len(self.texts):
                yield "".join(self.texts[start:end])
                start, size = end, 0

    def _all(self, text: str) -> Grams:
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        codes = self._codes[points]
        if len(codes) < _GRAM_CHARS:
            codes = np.concatenate((codes, np.zeros(_GRAM_CHARS - len(codes), np.uint64)))
        count = len(codes) - _GRAM_CHARS + 1
        grams: Grams = codes[:count]
        for place in range(1, _GRAM_CHARS):
            grams = (grams << np.uint64(16)) | codes[place : place + count]
        return grams

    def _buckets(self, grams: Grams) -> Places:
        return ((grams * _SPREAD) >> self._shift).astype(np.int64)


class SimilarSets:
    """Finds, of the texts that were added, the few whose sets may be similar to another's.

    Args:
        sets: Of all texts, also of those that are never added.
        threshold: Jaccard similarity, in (0, 1].
    """

    def __init__(self, sets: GramSets, *, threshold: float) -> None:
        self._threshold = threshold
        self._sizes = np.zeros(len(sets), np.int64)
        self._needed = np.zeros(len(sets), np.int64)
        self._signatures = np.zeros((len(sets), (1 << _SIGNATURE_BITS) // 64), np.uint64)
        prefixes = []
        for place in range(len(sets)):
            grams = sets.of(place)
            common = math.ceil(threshold * len(grams))  # what a similar set has of them, at least
            needed = min(_SHARED_RARE_GRAMS, common)
            prefixes.append(sets.rarest_first(grams)[: len(grams) - common + needed])
            self._sizes[place], self._needed[place] = len(grams), needed
            self._signatures[place] = sets.signature(grams)
        self._index(prefixes)

    def cost(self, place: int) -> int:
        """How many entries :meth:`like` goes through."""
        return int(self._filled[self._lists_of(place)].sum())

    def like(self, place: int) -> Places:
        """The places of all texts that may be similar, in order; those that are, are among them."""
        lists = self._lists_of(place)
        counts = self._filled[lists]
        ends = np.cumsum(counts)
        if not len(ends) or not ends[-1]:
            return np.zeros(0, np.int64)
        entries = np.repeat(self._starts[lists] - ends + counts, counts) + np.arange(ends[-1])
        rivals, shared = _counted(self._entries[entries])
        rivals = rivals[shared >= np.minimum(self._needed[rivals], self._needed[place])]
        sizes = self._sizes[rivals] + self._sizes[place]
        bits = np.bitwise_count(self._signatures[rivals] ^ self._signatures[place])
        common = (sizes - bits.sum(-1, dtype=np.int64)) / 2  # at most
        found: Places = rivals[common >= self._threshold * (sizes - common)]
        return found

    def add(self, place: int) -> None:
        """Let a text be found from now on."""
        lists = self._lists_of(place)
        self._entries[self._starts[lists] + self._filled[lists]] = place
        self._filled[lists] += 1

    def _lists_of(self, place: int) -> Places:
        return self._lists[self._bounds[place] : self._bounds[place + 1]]

    def _index(self, prefixes: list[Grams]) -> None:
        """A list for every gram that two prefixes have, as long as it can become."""
        bounds = np.cumsum([0, *map(len, prefixes)])
        grams = np.concatenate(prefixes) if prefixes else np.zeros(0, np.uint64)
        prefixes.clear()
        _, lists, counts = np.unique(grams, return_inverse=True, return_counts=True)
        shared = counts > 1
        kept = shared[lists]
        self._lists = (np.cumsum(shared) - 1).astype(np.int32)[lists[kept]]
        self._bounds = np.concatenate(([0], np.cumsum(kept)))[bounds]
        counts = counts[shared]
        self._starts = np.cumsum(counts) - counts
        self._filled = np.zeros(len(counts), np.int64)
        self._entries = np.zeros(counts.sum(), np.int32)


def _counted(places: Places) -> tuple[Places, Places]:
    """The different ones, in order, and how often they are there."""
    if len(places) * 16 < places.max():
        return np.unique(places, return_counts=True)
    counts = np.bincount(places)  # no sorting
    found = np.flatnonzero(counts)
    return found, counts[found]
