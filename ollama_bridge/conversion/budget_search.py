"""The search of a plan: what is asked for, and how estimates are corrected by measurements."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ollama_bridge.errors import ConfigError, ConversionError
from ollama_bridge.quantization.mixes import TypePlan
from ollama_bridge.quantization.tradeoff import Option, TradeOff

Measure = Callable[[TypePlan], float]

_MAX_MEASUREMENTS = 8
_CLOSE_ENOUGH = 0.97  # of the budget
_SAYS, _IN_A_RECIPE = "the size asked for is", " (in a recipe: export.max_size)"


@dataclass(frozen=True)
class Target:
    """What a file has to keep: one of the two.

    Attributes:
        kl_nats: Mean KL(float || quantized) that it may have; the file gets as small as it can.
        size_bytes: Size that it may have; the divergence gets as small as it can.
        positions: Predictions to measure on, in each half of the texts.

    Raises:
        ConfigError: both, neither, or not positive.
    """

    kl_nats: float | None = None
    size_bytes: int | None = None
    positions: int = 512

    def __post_init__(self) -> None:
        """Check it."""
        given = [value for value in (self.kl_nats, self.size_bytes) if value is not None]
        if len(given) != 1:
            raise ConfigError("give either --budget or --max-size, not both")
        if not 0 < given[0] < math.inf:
            raise ConfigError(f"a budget or a size has to be positive, not {given[0]}")
        if self.positions < 1:
            raise ConfigError(f"{self.positions} positions are too few to measure on")

    def __str__(self) -> str:
        """In words."""
        if self.kl_nats is not None:
            return f"{self.kl_nats:g} nats"
        return f"{_megabytes(self.size_bytes or 0, up=False)}"


def check_size(target: Target, smallest_bytes: int) -> None:
    """Refuse a size in which no plan of the whole file fits, before anything is measured.

    Raises:
        ConversionError: it is too small; names the smallest.
    """
    if target.size_bytes is not None and target.size_bytes < smallest_bytes:
        raise ConversionError(
            f"the smallest file of this model has {smallest_bytes} bytes, {_SAYS} "
            f"{target.size_bytes}",
            hint=f"--max-size {_megabytes(smallest_bytes, up=True)}{_IN_A_RECIPE}, or distil a "
            "smaller student",
        )


def check_tensors(target: Target, smallest_bytes: int) -> None:
    """Refuse a size that not even the tensors fit in.

    Raises:
        ConversionError: it is too small.
    """
    if target.size_bytes is not None and target.size_bytes < smallest_bytes:
        raise ConversionError(
            f"the tensors of this model have {smallest_bytes} bytes in their smallest types, "
            f"{_SAYS} {target.size_bytes} for the whole file",
            hint=f"a --max-size above {_megabytes(smallest_bytes, up=True)}{_IN_A_RECIPE}, which "
            "leaves room for the tokenizer, or distil a smaller student",
        )


def search(
    trade_off: TradeOff, target: Target, *, fixed_bytes: int, measure: Measure
) -> dict[str, Option]:
    """The plan of least divergence within a size, or the smallest that was found in a budget.

    ``fixed_bytes`` of the file are beside what is chosen.

    Raises:
        ConversionError: no plan keeps the budget; names the nearest one.
    """
    if target.size_bytes is not None:
        return trade_off.within_size(target.size_bytes - fixed_bytes)
    assert target.kl_nats is not None
    return _within_budget(trade_off, target.kl_nats, measure)


def _within_budget(trade_off: TradeOff, budget: float, measure: Measure) -> dict[str, Option]:
    """Ask for an estimate, see what it measures, and ask again.

    Where estimates lead to no other plan, the middle of the sizes is asked for that are known to be
    too small and large enough.
    """
    best = trade_off.within_kl(0.0)
    kept: dict[str, Option] | None = None
    allowed, refused = 0.0, math.inf  # estimates whose plans were within the budget and beyond
    too_small, enough = trade_off.smallest_bytes, _size(best)
    asked = budget
    seen: list[TypePlan] = []
    for _ in range(_MAX_MEASUREMENTS):
        plan = trade_off.within_kl(asked)
        if _types(plan) in seen:
            plan = trade_off.within_size((too_small + enough) // 2)
        types = _types(plan)
        if types in seen:
            break
        seen.append(types)
        found = measure(types)
        if found <= budget:
            if kept is None or _size(plan) < _size(kept):
                kept = plan
            allowed, enough = max(allowed, asked), min(enough, _size(plan))
            if found >= _CLOSE_ENOUGH * budget:
                break
        else:
            refused, too_small = min(refused, asked), max(too_small, _size(plan))
        asked = _next(asked, allowed, refused, budget / found if found > 0 else math.inf)
    if kept is not None:
        return kept
    found = measure(_types(best))
    if found <= budget:
        return best
    raise ConversionError(
        f"even the finest types of this model have {found:.3g} nats, the budget is {budget:g}",
        hint=f"--budget {_up(found)} can be kept; --type bf16 or f32 keeps more",
    )


def _next(asked: float, allowed: float, refused: float, factor: float) -> float:
    """An estimate between those known, as the last measurement suggests if it can."""
    suggested = asked * min(factor, 4.0) * 0.985  # a hair below: beyond the budget is no use
    if allowed < suggested < refused:
        return suggested
    if refused == math.inf:
        return asked * 2
    return math.sqrt(allowed * refused) if allowed > 0 else refused / 4


def _types(plan: Mapping[str, Option]) -> TypePlan:
    return {name: option.type for name, option in plan.items()}


def _size(plan: Mapping[str, Option]) -> int:
    return sum(option.size_bytes for option in plan.values())


def _up(nats: float) -> str:
    """Two digits, not rounded down."""
    step = 10.0 ** (math.floor(math.log10(nats)) - 1)
    return f"{math.ceil(nats / step) * step:.2g}"


def _megabytes(size_bytes: int, *, up: bool) -> str:
    tenths = math.ceil(size_bytes / 1e5) if up else round(size_bytes / 1e5)
    return f"{tenths / 10:.1f}MB"
