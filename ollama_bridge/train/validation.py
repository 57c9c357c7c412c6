"""Scores of a model in training on the validation split, teacher-forced."""

from __future__ import annotations

import torch

from ollama_bridge.batches import Batches
from ollama_bridge.models.forward import CausalModel, run_decoder, vocabulary_logits
from ollama_bridge.models.precision import Precision
from ollama_bridge.train.losses import cross_entropy
from ollama_bridge.train.objective import POSITIONS_PER_CHUNK
from ollama_bridge.train.soft_targets import SplitLabels
from ollama_bridge.train.sparse_losses import kl_sparse


class Validator:
    """Computes validation scores.

    Args:
        model: In training; scored in the type in which it is trained.
        batches: Of the validation split.
        precision: Device and compute type.
        store: The teacher's distributions, if there are any.
    """

    def __init__(
        self,
        model: CausalModel,
        batches: Batches,
        *,
        precision: Precision,
        store: SplitLabels | None = None,
    ) -> None:
        self._model = model
        self._batches = batches
        self._precision = precision
        self._store = store

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        """``ce`` (and ``kl``) in nats a token, ``token_accuracy``, and ``exact``.

        ``exact`` is the share of examples all of whose tokens are the likeliest ones: there the
        greedy answer is the right one, ended in the right place. Of a classification that is the
        accuracy, with answers outside of the labels counted as wrong.
        """
        sums = {"ce": 0.0, "token_accuracy": 0.0}
        positions, exact = 0, 0
        for batch in self._batches.in_order():
            batch = batch.to(self._precision.device)
            soft = None
            if self._store is not None:
                rows = [self._batches.examples[member].row for member in batch.members]
                soft = self._store.read(rows).to(self._precision.device)
                sums.setdefault("kl", 0.0)
            wrong = torch.zeros(len(batch.members), dtype=torch.bool)
            with self._precision.autocast():
                hidden = run_decoder(self._model, batch).supervised
                for start in range(0, hidden.shape[0], POSITIONS_PER_CHUNK):
                    part = slice(start, start + POSITIONS_PER_CHUNK)
                    logits, targets = (
                        vocabulary_logits(self._model, hidden[part]),
                        batch.targets[part],
                    )
                    missed = logits.argmax(-1) != targets
                    wrong[batch.owners[part][missed].cpu()] = True
                    sums["ce"] += float(cross_entropy(logits, targets).sum())
                    sums["token_accuracy"] += float((~missed).sum())
                    if soft is not None:
                        sums["kl"] += float(kl_sparse(soft[part], logits).sum())
            positions += int(hidden.shape[0])
            exact += int((~wrong).sum())
        scores = {name: value / positions for name, value in sums.items()}
        return {**scores, "exact": exact / len(self._batches.examples)}
