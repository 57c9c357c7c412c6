"""Holds the numbers in a tag's metadata against those that it carries of its checkpoint's config.

A norm's epsilon or a scaling of positions that is a little off shows in no answer of a probe. Only
a file of our converter carries them, so that names and defaults of others need not be known here;
``metadata_check`` compares those, where the checkpoint is at hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ollama_bridge.reference import ReferenceValues
from ollama_bridge.verify.certificate import COMPARED_KEYS, METADATA, Check, Numbers

# Of a float32 that was written by way of another decimal.
_RELATIVE = 1e-5


def check_numbers(reference: ReferenceValues, metadata: Mapping[str, Any]) -> tuple[Check, ...]:
    """One check; none where the values were written when they had no numbers.

    Args:
        reference: As the tag carries them.
        metadata: Of the same file, as the file or a daemon has it.
    """
    if not reference.numbers:
        return ()
    wrong = [
        describe_difference(key, wanted, metadata.get(key))
        for key, wanted in reference.numbers.items()
        if not is_same(wanted, metadata.get(key))
    ]
    counts: Numbers = {COMPARED_KEYS: len(reference.numbers), "wrong_keys": len(wrong)}
    return (Check.of_file(METADATA, wrong, counts),)


def is_same(wanted: object, found: object) -> bool:
    """Whether two values of a key are the same; numbers by what a float32 can tell apart."""
    numbers = isinstance(wanted, int | float) and isinstance(found, int | float)
    if numbers and (isinstance(wanted, float) or isinstance(found, float)):
        return math.isclose(wanted, found, rel_tol=_RELATIVE)  # type: ignore[arg-type]
    return wanted == found


def describe_difference(key: str, wanted: object, found: object) -> str:
    """What a key is, and what it should be, in words."""
    return f"{key}: {_shown(found)} in the GGUF, config.json makes it {_shown(wanted)}"


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "missing" if value is None else str(value)
