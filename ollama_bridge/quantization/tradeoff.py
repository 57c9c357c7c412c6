"""Size against divergence: which type each matrix gets when a whole file may cost so much.

Each matrix has options, a size and an estimate of the divergence that it adds; divergences of
small errors add up. One table of the knapsack problem over all sizes (dynamic programming) answers
every question at once: the least divergence within a size, and the smallest size within a
divergence. Does not know where the estimates come from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

Type = GGMLQuantizationType
Float64Array = np.ndarray[Any, np.dtype[np.float64]]

_FINE = (
    Type.F16,
    Type.Q8_0,
    Type.Q6_K,
    Type.Q5_1,
    Type.Q5_K,
    Type.Q5_0,
    Type.Q4_1,
    Type.Q4_K,
    Type.Q4_0,
)
_COARSE = (Type.Q3_K, Type.Q2_K)
_MAX_BUCKETS = 1 << 16
# The file type that llama.cpp guesses of the type that most bytes have.
_FILE_TYPES: Mapping[GGMLQuantizationType, str] = {
    Type.Q5_K: "q5_k_m",
    Type.Q4_K: "q4_k_m",
    Type.Q3_K: "q3_k_m",
}


@dataclass(frozen=True)
class Option:
    """One type of one matrix: its bytes, and an estimate of the divergence that it adds."""

    type: GGMLQuantizationType
    size_bytes: int
    kl_nats: float


def candidate_types(columns: int, *, coarse: bool) -> tuple[GGMLQuantizationType, ...]:
    """The types that rows of so many numbers divide into, finest first; coarse: of 3 bits, too."""
    types = (*_FINE, *_COARSE) if coarse else _FINE
    return tuple(type_ for type_ in types if columns % GGML_QUANT_SIZES[type_][0] == 0)


def file_type_of(options: Mapping[str, Option]) -> str:
    """The file type that a mixed file is said to be of: that of most of its bytes."""
    sizes: dict[GGMLQuantizationType, int] = {}
    for option in options.values():
        sizes[option.type] = sizes.get(option.type, 0) + option.size_bytes
    most = max(sizes, key=lambda type_: (sizes[type_], type_))
    return _FILE_TYPES.get(most, most.name.lower())


class TradeOff:
    """All plans worth having for some matrices.

    Options that are no smaller than a better one never enter a plan.
    """

    def __init__(self, options: Mapping[str, Sequence[Option]]) -> None:
        self._options = {name: _worthwhile(found) for name, found in options.items()}
        smallest = [found[0].size_bytes for found in self._options.values()]
        self.smallest_bytes = sum(smallest)
        largest = sum(found[-1].size_bytes for found in self._options.values())
        # Matrices have few shapes, so their sizes have a large divisor: buckets of it are exact. Of
        # more buckets than can be tabled, some are put together, and sizes rounded up.
        divisor = math.gcd(
            *(
                one.size_bytes - found[0].size_bytes
                for found in self._options.values()
                for one in found
            )
        )
        divisor = max(divisor, 1)
        count = (largest - self.smallest_bytes) // divisor
        self._bucket = divisor * max(1, -(-count // _MAX_BUCKETS))
        self._costs = [
            [-(-(option.size_bytes - found[0].size_bytes) // self._bucket) for option in found]
            for found in self._options.values()
        ]
        self._least, self._chosen = self._solve(sum(costs[-1] for costs in self._costs) + 1)

    def within_size(self, size_bytes: int) -> dict[str, Option]:
        """The plan of least divergence that takes no more bytes.

        Raises:
            ValueError: less than :attr:`smallest_bytes`.
        """
        if size_bytes < self.smallest_bytes:
            raise ValueError(f"{size_bytes} bytes are fewer than {self.smallest_bytes}")
        buckets = (size_bytes - self.smallest_bytes) // self._bucket
        return self._plan(min(buckets, len(self._least) - 1))

    def within_kl(self, kl_nats: float) -> dict[str, Option]:
        """The smallest plan that adds no more divergence; the best of all where none does."""
        fits = np.flatnonzero(self._least <= kl_nats)
        return self._plan(int(fits[0]) if len(fits) else len(self._least) - 1)

    def curve(self, points: int) -> list[tuple[int, float]]:
        """Size in bytes and divergence in nats of some plans from the smallest to the best."""
        places = np.unique(np.linspace(0, len(self._least) - 1, points).astype(int))
        return [
            (self.smallest_bytes + int(place) * self._bucket, float(self._least[place]))
            for place in places
        ]

    def _solve(self, capacity: int) -> tuple[Float64Array, list[np.ndarray[Any, Any]]]:
        """Least divergence by capacity, and for each matrix the option that gives it."""
        least = np.zeros(capacity)
        chosen = []
        for found, costs in zip(self._options.values(), self._costs, strict=True):
            sums = np.full((len(found), capacity), np.inf)
            for row, (option, cost) in enumerate(zip(found, costs, strict=True)):
                sums[row, cost:] = least[: capacity - cost] + option.kl_nats
            picked = sums.argmin(axis=0).astype(np.uint8)
            least = np.take_along_axis(sums, picked[None].astype(np.intp), axis=0)[0]
            chosen.append(picked)
        return least, chosen

    def _plan(self, capacity: int) -> dict[str, Option]:
        plan = {}
        for name, costs, picked in zip(
            reversed(self._options), reversed(self._costs), reversed(self._chosen), strict=True
        ):
            place = int(picked[capacity])
            plan[name] = self._options[name][place]
            capacity -= costs[place]
        return {name: plan[name] for name in self._options}


def _worthwhile(options: Sequence[Option]) -> list[Option]:
    """Smallest first, each better than all that are smaller."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda one: (one.size_bytes, one.kl_nats)):
        if not kept or option.kl_nats < kept[-1].kl_nats:
            kept.append(option)
    return kept
