"""How many requests a daemon is given at a time, found by trying.

How many it works on at once is not told (``OLLAMA_NUM_PARALLEL``, 1 where it is not set), but a
reply tells how long it was worked on, so how long it waited inside the daemon for a slot. So the
number is doubled until some wait, and then it is known how many do not. More than those would gain
nothing and run into limits; one that waits even costs where answers are of one length, as what
begins and ends together shares its steps. Where one is worked on at a time nothing is shared, and
one that waits is begun while the last reply is on its way. Servers that tell no times are given
more for as long as more comes of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

_FIRST = 4  # more than a daemon works on do no harm for as long as it takes to see it
_MOST = 32
_LEAST = 2  # or a daemon of one slot is idle between a reply and the next question
_LEAST_JOBS = 8
_GAIN = 1.1  # of a server that tells no times: less may be chance
_LOSS = 0.95


@dataclass(frozen=True)
class Waited:
    """How long a job waited for a slot, of how long in all, by the daemon's clock."""

    waited_s: float
    total_s: float


@dataclass(frozen=True)
class _Rate:
    limit: int
    units_per_s: float


@dataclass
class _Window:
    """What came of the jobs at one number, after so many that were begun before."""

    skips: int
    began_s: float | None = None
    jobs: int = 0
    units: float = 0.0
    waited_s: float = 0.0
    total_s: float = 0.0


class Pace:
    """Of one endpoint.

    Args:
        limit: A number that stays; None: it is found.

    Attributes:
        limit: Jobs at a time.
        is_settled: It does not change any more.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit or _FIRST
        self.is_settled = limit is not None
        self._best: _Rate | None = None
        self._window = _Window(skips=1)  # the first loads the model

    def settled(self, units: float, now_s: float, waited: Waited | None = None) -> None:
        """A job is done.

        Args:
            units: How much it was: tokens, or 1.
            now_s: By any clock that only goes forward.
            waited: How long it waited for a slot; None: not told.
        """
        if self.is_settled:
            return
        window = self._window
        if window.began_s is None:
            window.skips -= 1
            if window.skips <= 0:
                window.began_s = now_s
            return
        window.jobs += 1
        window.units += units
        if waited is not None:
            window.waited_s += waited.waited_s
            window.total_s += waited.total_s
        if window.jobs < max(_LEAST_JOBS, 2 * self.limit) or now_s <= window.began_s:
            return
        self._decide(_Rate(self.limit, window.units / (now_s - window.began_s)))

    def _decide(self, rate: _Rate) -> None:
        window = self._window
        waiting = self.limit * window.waited_s / window.total_s if window.total_s else None
        if waiting is not None and waiting >= 1.0:
            self.limit = max(_LEAST, round(self.limit - waiting))
            self.is_settled = True
            return
        best = rate if self._best is None else max(self._best, rate, key=attrgetter("units_per_s"))
        enough = _GAIN if waiting is None else _LOSS
        goes_on = self._best is None or rate.units_per_s > enough * self._best.units_per_s
        self._best = best
        if goes_on and self.limit < _MOST:
            self.limit *= 2
            self._window = _Window(skips=self.limit)  # until all were begun among so many
        else:
            self.limit = best.limit
            self.is_settled = True


def waited(record: Mapping[str, Any]) -> Waited | None:
    """How long nothing was done for a reply; None where it tells no times."""
    times = record.get("timings") or {}
    total_s = float(times.get("total_s", 0.0))
    if total_s <= 0.0:
        return None
    worked_s = sum(float(times.get(name, 0.0)) for name in ("load_s", "prompt_s", "generate_s"))
    return Waited(max(0.0, total_s - worked_s), total_s)
