"""What a training run tells while it goes: losses, speed and memory."""

from __future__ import annotations

import time
from typing import Any

from ollama_bridge.models.compute.memory import PeakMemory
from ollama_bridge.reporting import Metric, Note, Progress, Reporter

# What of the facts is foretold, and how it is said.
_FORETOLD = (
    ("peak_memory_mb", 1e3, "GB of memory at its peak"),
    ("steps_s", 60, "minutes of steps"),
)


def rounded(value: float) -> str:
    """A number of which two digits, or those before the point, are worth reading."""
    return f"{value:.2g}" if value < 99.5 else f"{value:.0f}"


class Meter:
    """Turns steps into events, and into the facts at the end."""

    def __init__(self, stage: str, steps: int, reporter: Reporter, memory: PeakMemory) -> None:
        self._stage = stage
        self._steps = steps
        self._reporter = reporter
        self._memory = memory
        self._memory.lap_bytes()  # what was before is not its own
        self._start_s = time.monotonic()
        self._tokens = 0
        self._steps_s = 0.0
        self._peak_bytes = 0

    def step(self, done: int, tokens: int, values: dict[str, float], *, seconds: float) -> None:
        """A step is done.

        Args:
            done: Steps so far, an interrupted run's included.
            tokens: Real ones of its batch.
            values: Its losses and the like.
            seconds: It took, the writing of what it learns from included.
        """
        self._tokens += tokens
        self._steps_s += seconds
        memory_bytes = self._memory.lap_bytes()
        self._peak_bytes = max(self._peak_bytes, memory_bytes)
        fields = {**values, "tok_s": self._speed(), "memory_mb": memory_bytes / 1e6}
        self._reporter.emit(Progress(self._stage, done, self._steps, "steps", fields))

    def record(self, done: int, entry: dict[str, Any]) -> None:
        """Numbers worth keeping: an entry of the training log."""
        values = {name: value for name, value in entry.items() if isinstance(value, float)}
        validation = entry.get("validation", {})
        values |= {f"validation_{name}": value for name, value in validation.items()}
        self._reporter.emit(Metric(self._stage, done, values))

    def facts(self) -> dict[str, float]:
        """Speed, memory and time of this process."""
        return {
            "tokens_per_s": round(self._speed(), 1),
            "peak_memory_mb": round(self._peak_bytes / 1e6, 1),
            "steps_s": round(self._steps_s, 1),
            "training_s": round(time.monotonic() - self._start_s, 1),
        }

    def tell(self, facts: dict[str, float]) -> None:
        """What a run took, beside what was foretold."""
        said = [
            f"{rounded(facts[name] / unit)} {what} ({rounded(facts[f'forecast_{name}'] / unit)} "
            "forecast)"
            for name, unit, what in _FORETOLD
            if f"forecast_{name}" in facts
        ]
        self._reporter.emit(Note(self._stage, "info", f"took {', '.join(said)}"))

    def _speed(self) -> float:
        return self._tokens / max(1e-9, time.monotonic() - self._start_s)
