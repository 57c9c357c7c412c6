"""What a training step minimises: any weighted sum of losses.

Logits exist on supervised positions only, and there chunk by chunk (``chunked``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ollama_bridge.encoding.batches import Batch
from ollama_bridge.errors import TrainingError
from ollama_bridge.label_store.labels import Targets
from ollama_bridge.models.compute.forward import CausalModel, States, run_decoder
from ollama_bridge.models.compute.head import VocabularyHead
from ollama_bridge.recipe.losses import CrossEntropyLoss, VocabularyLoss, loss_names
from ollama_bridge.train.live_teacher import LiveTeacher
from ollama_bridge.train.losses.chunked import chunked_losses
from ollama_bridge.train.losses.layer_terms import LayerTerm
from ollama_bridge.train.losses.projections import Projections
from ollama_bridge.train.losses.signals import HardLabels, Signal, StoredSignal, live_signal
from ollama_bridge.train.losses.vocabulary_terms import vocabulary_loss
from ollama_bridge.train.teacher_rows import TeacherRows


@dataclass(frozen=True)
class Losses:
    """A batch's loss, and its parts for the log (means, unweighted, detached).

    Of a part of a larger batch it is what that part adds to the whole's.
    """

    total: torch.Tensor
    parts: dict[str, torch.Tensor]


class Objective:
    """The weighted loss of a batch.

    Args:
        model: The student.
        losses: Over the vocabulary; hard labels alone by default.
        layer_terms: Between layers.
        teacher: Runs beside the student; needed by ``layer_terms`` and where ``live``.
        live: Whether the teacher's distributions come from ``teacher``, and not from soft labels.
        projections: For hidden states of different widths.
        rows: What a live teacher of other tokens reads in place of the batch, where there is one.
    """

    def __init__(
        self,
        model: CausalModel,
        losses: Sequence[VocabularyLoss] = (CrossEntropyLoss(),),
        *,
        layer_terms: Sequence[LayerTerm] = (),
        teacher: LiveTeacher | None = None,
        live: bool = False,
        projections: Projections | None = None,
        rows: TeacherRows | None = None,
    ) -> None:
        if (layer_terms or live) and teacher is None:
            raise TrainingError("these losses need the teacher's weights")
        self._model = model
        self._head = VocabularyHead(model)
        self._losses = tuple(losses)
        self._names = loss_names(self._losses)
        self._layer_terms = tuple(layer_terms)
        self._layer_names = loss_names([term.loss for term in self._layer_terms])
        self._teacher = teacher if layer_terms or live else None
        self._live = live
        self._rows = rows
        self._projections = projections
        self._compares = any(loss.needs != "nothing" for loss in self._losses)
        self._reads_hidden = any(term.compares_hidden for term in self._layer_terms)
        self._reads_attention = not all(term.compares_hidden for term in self._layer_terms)

    @property
    def names(self) -> tuple[str, ...]:
        """What the parts of a loss are called."""
        return ("loss", *self._names, *self._layer_names)

    def __call__(self, batch: Batch, soft: Targets | None) -> Losses:
        """The loss of one batch.

        Args:
            batch: On the model's device.
            soft: The teacher's distributions on the batch's supervised positions, in order; None
                where no loss reads them, or the teacher is live.

        Raises:
            TrainingError: soft labels do not fit the batch.
        """
        hidden, attentions = self._reads_hidden, self._reads_attention
        theirs = None
        if self._teacher is not None:
            # First, for what it needs in passing would lie on top of what the student has to keep.
            read = batch if self._rows is None else self._rows.batch(batch)
            theirs = self._teacher.states(read, all_layers=hidden, attentions=attentions)
        ours = run_decoder(self._model, batch, all_layers=hidden, attentions=attentions)
        parts: dict[str, torch.Tensor] = {}
        total = ours.supervised.new_zeros((), dtype=torch.float32)
        if self._losses:
            signal = self._signal(batch, soft, theirs)
            total, parts = self._vocabulary_losses(ours.supervised, batch, signal)
        for name, term in zip(self._layer_names, self._layer_terms, strict=True):
            assert theirs is not None
            values = term.values(ours, theirs, self._projections)
            mean = torch.stack([batch.token_mean(value) for value in values]).mean()
            total = total + term.loss.weight * mean
            parts[name] = mean.detach()
        return Losses(total, {"loss": total.detach(), **parts})

    def _signal(self, batch: Batch, soft: Targets | None, theirs: States | None) -> Signal:
        if not self._compares:
            return HardLabels(batch.targets)
        if self._live:
            assert self._teacher is not None
            assert theirs is not None
            return live_signal(self._teacher, theirs.supervised, batch, self._rows)
        if soft is None:
            raise TrainingError(
                f"{batch.targets.shape[0]} supervised positions, soft labels for none"
            )
        return StoredSignal(soft, batch.targets)

    def _vocabulary_losses(
        self, hidden: torch.Tensor, batch: Batch, signal: Signal
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        def sums(logits: torch.Tensor, part: slice) -> list[torch.Tensor]:
            found = signal.beside(logits, part)
            return [vocabulary_loss(loss, found).sum() for loss in self._losses]

        weights = [loss.weight for loss in self._losses]
        weighted, values = chunked_losses(self._head, hidden, weights, sums)
        means = batch.position_mean(values).unbind()
        return batch.position_mean(weighted), dict(zip(self._names, means, strict=True))
