"""The gradient of a batch, computed in parts that fit into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ollama_bridge.encoding.batches import Batches
from ollama_bridge.models.compute.forward import CausalModel, activation_checkpointing
from ollama_bridge.models.compute.precision import Precision
from ollama_bridge.train.losses.objective import Losses
from ollama_bridge.train.phase import Phase
from ollama_bridge.train.plan import Plan
from ollama_bridge.train.shards import Weights


@dataclass(frozen=True)
class Gradients:
    """What batches give to the gradients of a model's weights."""

    model: CausalModel
    weights: Weights
    precision: Precision

    def add(
        self,
        lesson: Phase,
        source: Batches,
        members: Sequence[int],
        plan: Plan,
        *,
        share: Sequence[int] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Add a batch's gradient to what is there already; returns its losses by name.

        Args:
            lesson: Objective and soft labels.
            source: Whose members they are.
            members: Of the batch.
            plan: How much of it is computed at once.
            share: The members that this process computes, perhaps none, where the result is to be
                summed over all processes; None: all of them.
        """
        own = members if share is None else share
        parts = [tuple(own)] if own else []
        if plan.micro_batch_tokens is not None:
            parts = source.split(own, plan.micro_batch_tokens)
        idle = self.weights.passes(len(parts)) - len(parts)
        sums: dict[str, torch.Tensor] = {}
        # One autocast around all parts: what it has cast of the weights serves each of them. One
        # part alone needs no cast for longer than a layer (`lean_products`).
        with (
            activation_checkpointing(self.model, enabled=plan.activation_checkpointing),
            self.precision.autocast(keeps_casts=len(parts) + idle > 1),
        ):
            for part in parts:
                losses = self._losses(lesson, source, part, members)
                with self.precision.no_autocast():
                    losses.total.backward()
                for name, value in losses.parts.items():
                    sums[name] = sums[name] + value if name in sums else value
            for _ in range(idle):  # layers are put together only where all come to them
                losses = self._losses(lesson, source, tuple(members[:1]), members)
                with self.precision.no_autocast():
                    (0.0 * losses.total).backward()
        return sums

    def _losses(
        self, lesson: Phase, source: Batches, part: tuple[int, ...], members: Sequence[int]
    ) -> Losses:
        device = self.precision.device
        batch = source.collate(part, whole=members).to(device)
        if lesson.soft_labels is None:
            return lesson.objective(batch, None)
        rows = [source.examples[member].row for member in batch.members]
        return lesson.objective(batch, lesson.soft_labels(rows).to(device))
