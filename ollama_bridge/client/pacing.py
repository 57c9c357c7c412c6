"""How many requests a daemon is given at a time, found by trying.

How many it works on at once is not told (``OLLAMA_NUM_PARALLEL``, 1 where it is not set); the
rest wait inside it, where they gain nothing and run into limits. So the number is doubled for as
long as more comes of it.
"""

from __future__ import annotations

from dataclasses import dataclass

_GAIN = 1.04
_MOST = 32
_LEAST_JOBS = 6


@dataclass(frozen=True)
class _Rate:
    limit: int
    units_per_s: float


class Pace:
    """Of one endpoint.

    Args:
        limit: A number that stays; None: it is found.

    Attributes:
        limit: Jobs at a time.
        is_settled: It does not change any more.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit or 1
        self.is_settled = limit is not None
        self._best: _Rate | None = None
        self._waits_for = 1  # jobs that were begun at the number before
        self._began_s: float | None = None
        self._done = 0
        self._units = 0.0

    def settled(self, units: float, now_s: float) -> None:
        """A job is done.

        Args:
            units: How much it was: tokens, or 1.
            now_s: By any clock that only goes forward.
        """
        if self.is_settled:
            return
        if self._began_s is None:
            self._waits_for -= 1
            if self._waits_for <= 0:
                self._began_s = now_s
            return
        self._done += 1
        self._units += units
        if self._done < max(_LEAST_JOBS, 2 * self.limit) or now_s <= self._began_s:
            return
        self._decide(_Rate(self.limit, self._units / (now_s - self._began_s)))

    def _decide(self, rate: _Rate) -> None:
        better = self._best is None or rate.units_per_s > _GAIN * self._best.units_per_s
        if better:
            self._best = rate
        if better and self.limit < _MOST:
            self.limit *= 2
        else:
            self.limit = self._best.limit if self._best is not None else self.limit
            self.is_settled = True
        self._waits_for = self.limit
        self._began_s, self._done, self._units = None, 0, 0.0
