"""A stretch of training: what its steps learn from, and how fast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ollama_bridge.encoding.batches import Batches
from ollama_bridge.label_store.labels import Targets
from ollama_bridge.train.losses.objective import Objective
from ollama_bridge.train.on_policy import OnPolicy

SoftReader = Callable[[Sequence[int]], Targets]


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one objective and one course of the learning rate.

    Attributes:
        name: For the log.
        epochs: Passes over the data; 1.5 is possible.
        lr: Peak learning rate.
        objective: What is minimised.
        soft_labels: Reads the soft labels of a batch's members; None where there are none.
        on_policy: Answers that the student writes, from which some of the steps learn instead.
        asked_epochs: What the recipe asks for, where ``epochs`` are more (``min_steps``): it is
            evaluated as often as these would be, not after every pass over a handful of texts.
    """

    name: str
    epochs: float
    lr: float
    objective: Objective
    soft_labels: SoftReader | None = None
    on_policy: OnPolicy | None = None
    asked_epochs: float | None = None

    def steps(self, batches: Batches) -> int:
        """How many steps it has."""
        return max(1, round(self.epochs * len(batches)))

    def epoch_steps(self, batches: Batches) -> int:
        """How many of them the recipe calls an epoch."""
        passes = self.epochs / (self.asked_epochs or self.epochs)
        return max(1, round(passes * len(batches)))

    @property
    def on_rollouts(self) -> Phase:
        """The same, of the steps that learn from what the student writes."""
        assert self.on_policy is not None
        return replace(self, objective=self.on_policy.objective, soft_labels=None)
