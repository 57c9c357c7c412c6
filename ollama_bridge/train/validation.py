"""Scores of a model in training on the validation split, teacher-forced."""

from __future__ import annotations

import torch

from ollama_bridge.batches import Batch, Batches
from ollama_bridge.models.forward import CausalModel, run_decoder, vocabulary_logits
from ollama_bridge.models.head import VocabularyHead
from ollama_bridge.models.precision import Precision
from ollama_bridge.train.chunked import chunks
from ollama_bridge.train.live_teacher import LiveTeacher
from ollama_bridge.train.on_policy import OnPolicy
from ollama_bridge.train.signals import HardLabels, LiveSignal, Signal, StoredSignal
from ollama_bridge.train.soft_targets import SplitLabels


class Validator:
    """Computes validation scores.

    Args:
        model: In training; scored in the type in which it is trained.
        batches: Of the validation split.
        precision: Device and compute type.
        store: The teacher's distributions, if they are stored.
        teacher: Whose distributions, if they are not.
        on_policy: Also score what the student writes behind the split's prompts.
    """

    def __init__(
        self,
        model: CausalModel,
        batches: Batches,
        *,
        precision: Precision,
        store: SplitLabels | None = None,
        teacher: LiveTeacher | None = None,
        on_policy: OnPolicy | None = None,
    ) -> None:
        self._model = model
        self._head = VocabularyHead(model)
        self._batches = batches
        self._precision = precision
        self._store = store
        self._teacher = teacher
        self._on_policy = on_policy

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        """``ce`` (and ``kl``) in nats a token, ``token_accuracy``, and ``exact``.

        ``exact`` is the share of examples all of whose tokens are the likeliest ones: there the
        greedy answer is the right one, ended in the right place. Of a classification that is the
        accuracy, with answers outside of the labels counted as wrong. Of what the student writes,
        see :meth:`~ollama_bridge.train.on_policy.OnPolicy.score`.
        """
        sums = {"ce": 0.0, "token_accuracy": 0.0}
        positions, exact = 0, 0
        for batch in self._batches.in_order():
            batch = batch.to(self._precision.device)
            wrong = torch.zeros(len(batch.members), dtype=torch.bool)
            with self._precision.autocast():
                signal = self._signal(batch)
                hidden = run_decoder(self._model, batch).supervised
                for part in chunks(hidden.shape[0], self._model.config.vocab_size):
                    logits = vocabulary_logits(self._model, hidden[part])
                    missed = self._head.likeliest(hidden[part], logits) != batch.targets[part]
                    wrong[batch.owners[part][missed].cpu()] = True
                    found = signal.beside(logits, part)
                    sums["ce"] += float(found.cross_entropy().sum())
                    sums["token_accuracy"] += float((~missed).sum())
                    if not isinstance(signal, HardLabels):
                        kl = found.kl_forward(temperature=1.0)
                        sums["kl"] = sums.get("kl", 0.0) + float(kl.sum())
            positions += int(hidden.shape[0])
            exact += int((~wrong).sum())
        scores = {name: value / positions for name, value in sums.items()}
        scores["exact"] = exact / len(self._batches.examples)
        if self._on_policy is not None:
            scores |= self._on_policy.score(self._batches.examples)
        return scores

    def _signal(self, batch: Batch) -> Signal:
        if self._store is not None:
            rows = [self._batches.examples[member].row for member in batch.members]
            soft = self._store.read(rows).to(self._precision.device)
            return StoredSignal(soft, batch.targets)
        if self._teacher is not None:
            states = self._teacher.states(batch, all_layers=False, attentions=False)
            return LiveSignal(self._teacher, states.supervised, batch.targets)
        return HardLabels(batch.targets)


@torch.inference_mode()
def probe_logits(model: CausalModel, batches: Batches, *, positions: int = 64) -> torch.Tensor:
    """Logits (positions, V) in float32 on the first supervised positions, on the CPU.

    To be compared with those of a model that should compute the same.

    Args:
        model: In evaluation mode.
        batches: Of the validation split.
        positions: As many at most.
    """
    found: list[torch.Tensor] = []
    for batch in batches.in_order():
        hidden = run_decoder(model, batch.to(model.device)).supervised
        found.append(vocabulary_logits(model, hidden[:positions]).cpu())
        positions -= found[-1].shape[0]
        if positions <= 0:
            break
    return torch.cat(found)
