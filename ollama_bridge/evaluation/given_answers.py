"""Scores of free answers that can be right or wrong: of a closed set, or JSON, field by field.

Any other free text can be right in many words: it has a perplexity alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ollama_bridge.evaluation.metrics import Interval, ratio_of_sums, share_right

_MOST_FIELDS = 30  # that are told of one by one: those that most given answers have
_WHOLE = "(the value)"  # the place of what is no object

# The keys that lead to a value, and the numbers in lists of objects; and the value, as text.
_Keys = tuple[str | int, ...]
_Field = tuple[_Keys, str]


@dataclass(frozen=True)
class JSONScores:
    """What answers in JSON are worth.

    Attributes:
        valid: Share of answers that are JSON and nothing else.
        same: Share that are the given value. The order of keys, blanks, and the order of a list of
            plain values do not matter.
        f1: Micro F1 of the fields, over all answers; one that is no JSON has no fields.
        by_field: F1 of the fields at one place, by place.
    """

    valid: float
    same: Interval
    f1: Interval
    by_field: Mapping[str, float]

    def to_dict(self) -> dict[str, object]:
        """For a report."""
        return {
            "json_valid": round(self.valid, 5),
            "json_same": self.same.to_dict(),
            "json_f1": self.f1.to_dict(),
            "json_fields": {place: round(f1, 5) for place, f1 in self.by_field.items()},
        }


def are_json(given: Sequence[str]) -> bool:
    """Whether all given answers are JSON objects or lists, so that a model's have to be, too."""
    return bool(given) and all(
        text[:1] in ("{", "[") and _fields_of(text) is not None for text in given
    )


def are_of_a_closed_set(given: Sequence[str]) -> bool:
    """Whether answers come again, each twice on the mean, so that there is one way to say them."""
    return 2 * len(set(given)) <= len(given)


def score_json(
    given: Sequence[str], answers: Sequence[str], *, bootstrap_samples: int
) -> JSONScores:
    """Hold answers against given ones that are JSON; intervals are over the texts."""
    found = [_fields_of(answer) for answer in answers]
    pairs = [
        (_fields_of(right) or Counter(), said or Counter())
        for right, said in zip(given, found, strict=True)
    ]
    hits = np.array([(right & said).total() for right, said in pairs], dtype=np.int64)
    either = np.array([(right + said).total() for right, said in pairs], dtype=np.int64)
    return JSONScores(
        valid=sum(one is not None for one in found) / max(1, len(found)),
        same=share_right(
            [right == said for right, said in pairs], bootstrap_samples=bootstrap_samples
        ),
        f1=ratio_of_sums(2 * hits, either, bootstrap_samples=bootstrap_samples),
        by_field=_by_field(pairs),
    )


def _by_field(pairs: Sequence[tuple[Counter[_Field], Counter[_Field]]]) -> dict[str, float]:
    given, said, hits = Counter[str](), Counter[str](), Counter[str]()
    for counts, fields in (
        (given, [right for right, _ in pairs]),
        (said, [found for _, found in pairs]),
        (hits, [right & found for right, found in pairs]),
    ):
        for one in fields:
            for (keys, _), count in one.items():
                counts[".".join(map(str, keys)) or _WHOLE] += count
    return {
        place: 2 * hits[place] / (count + said[place])
        for place, count in given.most_common(_MOST_FIELDS)
    }


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON")


def _fields_of(text: str) -> Counter[_Field] | None:
    """None: it is no JSON, or too deep to be read or gone through."""
    try:
        return Counter(_fields(json.loads(text, parse_constant=_refuse), ()))
    except (ValueError, RecursionError):
        return None


def _fields(value: object, keys: _Keys) -> Iterator[_Field]:
    """What is in a value; what is empty is a field as well, as somebody had to say so."""
    if isinstance(value, dict) and value:
        for key, one in value.items():
            yield from _fields(one, (*keys, key))
    elif isinstance(value, list) and any(isinstance(one, dict | list) for one in value):
        for number, one in enumerate(value):
            yield from _fields(one, (*keys, number))
    elif isinstance(value, list) and value:  # several labels: in any order
        yield from ((keys, f"[{_text(one)}]") for one in value)
    else:
        yield keys, _text(value)


def _text(value: object) -> str:
    """As JSON writes it; 20.0 is 20, but true is not 1."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value)
