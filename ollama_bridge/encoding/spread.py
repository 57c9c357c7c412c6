"""In which order examples are looked at where looking at all of them would take too long."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ollama_bridge.digests import digest_text
from ollama_bridge.encoding.encode import EncodedExample

_DIGITS = 13  # hexadecimal, as many as a float holds


def spread_out(examples: Sequence[EncodedExample]) -> list[EncodedExample]:
    """All examples, such that any number of the first ones stands for all.

    Split files are sorted, by source or by label: their own first examples are of one kind. Here
    each label has its share of any beginning, to within one example; which ones of a label come
    first is decided by digests of their row numbers, so it is the same for every tokenizer.
    """
    strata = defaultdict(list)
    for example in sorted(examples, key=_fraction):
        strata[example.label].append(example)
    # One of each of a stratum's equal parts, at random in it: a label that occurs once may be
    # anywhere.
    placed = [
        ((number + _fraction(example)) / len(stratum), example)
        for stratum in strata.values()
        for number, example in enumerate(stratum)
    ]
    return [example for _, example in sorted(placed, key=lambda pair: pair[0])]


def _fraction(example: EncodedExample) -> float:
    """A number from 0 to 1 that its row always has."""
    digits = digest_text(f"row {example.row}")[:_DIGITS]
    return float(int(digits, 16) / 16**_DIGITS)
