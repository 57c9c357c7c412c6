"""What a training run has to say when it is over: its log, its facts, and what was chosen."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ollama_bridge.storage.atomic_files import write_text_atomic
from ollama_bridge.train.plan import Plan

LOG_NAME = "training.json"


@dataclass(frozen=True)
class TrainingResult:
    """What the loop has to say of a finished run.

    Attributes:
        log: Losses and validation scores, in order; the same for every run of the same work.
        facts: Time, speed and memory of this process.
        plan: How batches were computed.
        best: Step and validation scores of the weights that were kept; None: the last ones were.
        processes: How many computed it.
    """

    log: list[dict[str, Any]]
    facts: dict[str, float]
    plan: Plan
    best: dict[str, Any] | None
    processes: int

    @property
    def validation(self) -> dict[str, float]:
        """Scores of the weights that are the result; empty without validation."""
        if self.best is not None:
            return dict(self.best["validation"])
        scores = [entry["validation"] for entry in self.log if "validation" in entry]
        return dict(scores[-1]) if scores else {}

    def write(self, folder: Path, settings: dict[str, Any]) -> None:
        """Write ``training.json``: the settings in effect, the log, and what was chosen."""
        chosen: dict[str, Any] = {}
        if self.processes > 1:
            chosen["processes"] = self.processes
        if self.plan != Plan():
            chosen["plan"] = asdict(self.plan)
        if self.best is not None:
            chosen["best"] = self.best
        text = json.dumps({"settings": settings, **chosen, "log": self.log}, indent=1)
        write_text_atomic(folder / LOG_NAME, text + "\n")
