"""What a daemon said at all probed places, and how far that is from the checkpoint on the whole."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from ollama_bridge.reference import TokenScore
from ollama_bridge.verify.bounds import Bounds
from ollama_bridge.verify.scores import ServedScore, compare_tops

_FEW = 3


@dataclass(frozen=True)
class Place:
    """What the daemon said at one place."""

    where: str
    prompt: str
    expected_tokens: int
    served_tokens: int
    reference: tuple[TokenScore, ...]
    served: tuple[ServedScore, ...]


class Measured:
    """All places, compared.

    Args:
        answers: Those in answers.
        prompts: Those behind prompts.
        special: Texts that a daemon may print for tokens without a text of their own.
    """

    def __init__(
        self, answers: Sequence[Place], prompts: Sequence[Place], *, special: Iterable[str]
    ) -> None:
        self.places = (*answers, *prompts)
        self._answer_count = len(answers)
        special = frozenset(special)
        self._results = [
            compare_tops(place.reference, place.served, special=special) for place in self.places
        ]
        self.compared = sum(result.compared for result in self._results)

    @property
    def max_difference(self) -> float:
        """The largest, in nats."""
        return max((result.max_difference for result in self._results), default=0.0)

    @property
    def worst(self) -> str:
        """Where that is, in words."""
        for place, result in zip(self.places, self._results, strict=True):
            if 0 < result.max_difference == self.max_difference:
                return f"token {result.token!r} at {place.where}"
        return ""

    def mean_kl_nats(self, *, but: Collection[int] = ()) -> float:
        """Over all places, or all but some."""
        return _mean([one.kl_nats for index, one in enumerate(self._results) if index not in but])

    def answers_kl_nats(self, *, but: Collection[int] = ()) -> float:
        """Over the places in answers but the worst tenth; each text counts once."""
        pairs = zip(self.places[: self._answer_count], self._results, strict=False)
        kls = {
            place.prompt: one.kl_nats
            for index, (place, one) in enumerate(pairs)
            if index not in but
        }
        return _mean(_without_worst(kls.values()))

    def is_within(self, bounds: Bounds, *, but: Collection[int] = ()) -> bool:
        """Whether all is within bounds, some places aside."""
        others = [one for index, one in enumerate(self._results) if index not in but]
        difference = max((one.max_difference for one in others), default=0.0)
        return self.compared > 0 and bounds.hold(
            difference, self.mean_kl_nats(but=but), self.answers_kl_nats(but=but)
        )

    def odd_places(self, bounds: Bounds) -> list[int]:
        """Indexes of few places without which all is within bounds; else none."""
        if self.is_within(bounds):
            return []
        limit = math.inf if bounds.max_difference is None else bounds.max_difference
        order = sorted(
            range(len(self._results)),
            key=lambda index: (
                self._results[index].max_difference > limit,
                self._results[index].kl_nats,
            ),
            reverse=True,
        )
        for count in range(1, min(_FEW, len(order) - 1) + 1):
            if self.is_within(bounds, but=order[:count]):
                return order[:count]
        return []


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / max(len(numbers), 1)


def _without_worst(numbers: Iterable[float]) -> list[float]:
    """All but the largest tenth, rounded up."""
    ordered = sorted(numbers)
    return ordered[: len(ordered) - math.ceil(len(ordered) / 10)]
