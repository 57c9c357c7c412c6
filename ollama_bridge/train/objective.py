"""What a training step minimises: hard labels, soft labels and hidden states, weighted.

Logits exist on supervised positions only, and of many positions in chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint

from ollama_bridge.batches import Batch
from ollama_bridge.errors import TrainingError
from ollama_bridge.labels import Targets
from ollama_bridge.models.forward import CausalModel, run_decoder, vocabulary_logits
from ollama_bridge.train.hidden_losses import hidden_error
from ollama_bridge.train.losses import cross_entropy
from ollama_bridge.train.sparse_losses import kl_sparse

# 256 positions of a vocabulary of 49,152 are 50 MB a copy; a step needs about six copies.
POSITIONS_PER_CHUNK = 256


@dataclass(frozen=True)
class Weights:
    """How the parts are mixed.

    Attributes:
        hard: Of the cross-entropy.
        soft: Of the KL divergence.
        hidden: Of the hidden states.
        temperature: Of the KL divergence.
    """

    hard: float = 1.0
    soft: float = 0.0
    hidden: float = 0.0
    temperature: float = 1.0


@dataclass(frozen=True)
class Losses:
    """A batch's loss, and its parts for the log (means, unweighted, detached)."""

    total: torch.Tensor
    parts: dict[str, torch.Tensor]


class Objective:
    """The weighted loss of a batch.

    Args:
        model: The student.
        weights: A part of weight 0 is not computed.
        teacher: Needed for hidden states only.
        layer_map: Which of the teacher's hidden states each layer of the student has to match
            (see :func:`layer_targets`).
    """

    def __init__(
        self,
        model: CausalModel,
        weights: Weights,
        *,
        teacher: CausalModel | None = None,
        layer_map: Sequence[int] = (),
    ) -> None:
        if weights.hidden and teacher is None:
            raise TrainingError("hidden-state transfer needs the teacher's weights")
        self._model = model
        self._weights = weights
        self._teacher = teacher
        self._layer_map = tuple(layer_map)

    def __call__(self, batch: Batch, soft: Targets | None) -> Losses:
        """The loss of one batch.

        Args:
            batch: On the model's device.
            soft: The teacher's distributions on the batch's supervised positions, in order; None
                where the weight of soft labels is 0.

        Raises:
            TrainingError: soft labels do not fit the batch.
        """
        weights = self._weights
        states = run_decoder(self._model, batch, all_layers=weights.hidden > 0)
        parts: dict[str, torch.Tensor] = {}
        total = states.supervised.new_zeros((), dtype=torch.float32)
        if weights.hard or weights.soft:
            hard, kl = self._answer_losses(states.supervised, batch.targets, soft)
            total = total + weights.hard * hard
            parts["ce"] = hard.detach()
            if kl is not None:
                total = total + weights.soft * kl
                parts["kl"] = kl.detach()
        if weights.hidden:
            hidden = self._hidden_loss(batch, states.layers)
            total = total + weights.hidden * hidden
            parts["hidden"] = hidden.detach()
        return Losses(total, {"loss": total.detach(), **parts})

    def _answer_losses(
        self, hidden: torch.Tensor, targets: torch.Tensor, soft: Targets | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if not self._weights.soft:
            soft = None
        elif soft is None or len(soft) != targets.shape[0]:
            found = "none" if soft is None else str(len(soft))
            raise TrainingError(f"{targets.shape[0]} supervised positions, soft labels for {found}")
        count = targets.shape[0]
        hard_sum, soft_sum = hidden.new_zeros(()).float(), hidden.new_zeros(()).float()
        for start in range(0, count, POSITIONS_PER_CHUNK):
            part = slice(start, start + POSITIONS_PER_CHUNK)
            chosen = None if soft is None else soft[part]
            if count > POSITIONS_PER_CHUNK and torch.is_grad_enabled():
                # Forget the chunk's logits and compute them again when the gradient is due.
                sums = checkpoint(
                    self._chunk_sums, hidden[part], targets[part], chosen, use_reentrant=False
                )
            else:
                sums = self._chunk_sums(hidden[part], targets[part], chosen)
            hard_sum, soft_sum = hard_sum + sums[0], soft_sum + sums[1]
        return hard_sum / count, None if soft is None else soft_sum / count

    def _chunk_sums(
        self, hidden: torch.Tensor, targets: torch.Tensor, soft: Targets | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logits = vocabulary_logits(self._model, hidden)
        hard = cross_entropy(logits, targets).sum()
        if soft is None:
            return hard, torch.zeros_like(hard)
        return hard, kl_sparse(soft, logits, temperature=self._weights.temperature).sum()

    def _hidden_loss(self, batch: Batch, layers: Sequence[torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            goals = run_decoder(self._teacher, batch, all_layers=True).layers
        errors = [
            hidden_error(states, goals[goal]).mean()
            for states, goal in zip(layers[1:], self._layer_map, strict=True)
        ]
        return torch.stack(errors).mean()


def layer_targets(kept: Sequence[int], *, teacher_layers: int) -> tuple[int, ...]:
    """Which hidden state of the teacher each layer of the student has to reach.

    Hidden state 0 is the embedding, i the output of layer i - 1. A student's layer that was the
    teacher's layer ``kept[j]`` has to do the work of all layers up to the next one that was kept:
    its output has to be what that next layer reads. The last one has to reach the teacher's end.

    Args:
        kept: The student's layers by their numbers in the teacher, ascending.
        teacher_layers: How many the teacher has.
    """
    return (*kept[1:], teacher_layers)
