"""How much of a batch is computed at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ollama_bridge.config import OptimizerSection


@dataclass(frozen=True)
class Plan:
    """How a batch is computed; changes results by rounding only.

    Attributes:
        micro_batch_tokens: Padded tokens at once; None: the whole batch, where one process computes
            it.
        activation_checkpointing: Whether layers are computed again for the gradient.
    """

    micro_batch_tokens: int | None = None
    activation_checkpointing: bool = False

    def changed_by(self, settings: OptimizerSection) -> Plan:
        """The plan of a run that goes on with other settings than those that it began with.

        What they leave open, and parts that are smaller already, stay as they were decided.
        """
        plan, limit = self, settings.micro_batch_tokens
        if limit is not None and limit < (self.micro_batch_tokens or settings.batch_tokens):
            plan = replace(plan, micro_batch_tokens=limit)
        if settings.activation_checkpointing is not None:
            plan = replace(plan, activation_checkpointing=settings.activation_checkpointing)
        return plan
