"""Scores of a model in training on the validation split, teacher-forced."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence

import numpy as np
import torch

from ollama_bridge.encoding.batches import Batch, Batches
from ollama_bridge.models.compute.forward import CausalModel, run_decoder, vocabulary_logits
from ollama_bridge.models.compute.head import VocabularyHead
from ollama_bridge.models.compute.precision import Precision
from ollama_bridge.train.live_teacher import LiveTeacher
from ollama_bridge.train.losses.chunked import chunks
from ollama_bridge.train.losses.signals import (
    HardLabels,
    MatchedSignal,
    Signal,
    StoredSignal,
    live_signal,
)
from ollama_bridge.train.on_policy import OnPolicy
from ollama_bridge.train.soft_targets import SplitLabels
from ollama_bridge.train.teacher_rows import TeacherRows

_PROBED_POSITIONS = 64


class Validator:
    """Computes validation scores.

    Args:
        model: In training; scored in the type in which it is trained.
        batches: Of the validation split.
        precision: Device and compute type.
        store: The teacher's distributions, if they are stored.
        teacher: Whose distributions, if they are not.
        rows: What it reads in place of these batches, if its tokens are others.
        on_policy: Also score what the student writes behind the split's prompts.
        answers: Tokens of the labels of a classification, as the split has them; none of free text.
            They are its examples' last answers.
    """

    def __init__(
        self,
        model: CausalModel,
        batches: Batches,
        *,
        precision: Precision,
        store: SplitLabels | None = None,
        teacher: LiveTeacher | None = None,
        rows: TeacherRows | None = None,
        on_policy: OnPolicy | None = None,
        answers: Sequence[tuple[int, ...]] = (),
    ) -> None:
        self._model = model
        self._head = VocabularyHead(model)
        self._batches = batches
        self._precision = precision
        self._store = store
        self._teacher = teacher
        self._rows = rows
        self._on_policy = on_policy
        self._answers = answers

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        """``ce`` (and ``kl``) in nats a token, ``token_accuracy``, and ``exact``.

        Of a teacher of other tokens there are ``uld`` and ``hybrid_uld`` in place of ``kl``: the
        losses ``universal`` and ``hybrid_universal``, 0 where the teacher predicts nothing.

        ``exact`` is the share of examples all of whose tokens are the likeliest ones: there the
        greedy answer is the right one, ended in the right place. Of a classification that is the
        accuracy of the last answer, with answers outside of the labels counted as wrong; there
        ``macro_f1`` is the mean of the labels' F1. Of what the student writes, see
        :meth:`~ollama_bridge.train.on_policy.OnPolicy.score`.
        """
        sums = {"ce": 0.0, "token_accuracy": 0.0}
        positions, exact, f1 = 0, 0, _MacroF1(self._answers)
        for batch in self._batches.in_order():
            batch = batch.to(self._precision.device)
            wrong = torch.zeros(len(batch.members), dtype=torch.bool)
            said: list[int] = []
            judged = self._judged(batch)
            with self._precision.autocast():
                signal = self._signal(batch)
                hidden = run_decoder(self._model, batch).supervised
                for part in chunks(hidden.shape[0], self._model.config.vocab_size):
                    logits = vocabulary_logits(self._model, hidden[part])
                    likeliest = self._head.likeliest(hidden[part], logits)
                    missed = likeliest != batch.targets[part]
                    said += likeliest.tolist()
                    wrong[batch.owners[part].cpu()[missed.cpu() & judged[part]]] = True
                    found = signal.beside(logits, part)
                    sums["ce"] += float(found.cross_entropy().sum())
                    sums["token_accuracy"] += float((~missed).sum())
                    if isinstance(signal, MatchedSignal):
                        uld = found.universal(temperature=1.0)
                        sums["uld"] = sums.get("uld", 0.0) + float(uld.sum())
                        hybrid = found.hybrid_universal(temperature=1.0, unmatched_weight=1.0)
                        sums["hybrid_uld"] = sums.get("hybrid_uld", 0.0) + float(hybrid.sum())
                    elif not isinstance(signal, HardLabels):
                        kl = found.kl_forward(temperature=1.0)
                        sums["kl"] = sums.get("kl", 0.0) + float(kl.sum())
            positions += int(hidden.shape[0])
            exact += int((~wrong).sum())
            if self._answers:
                f1.count(batch, said, judged.tolist())
        scores = {name: value / positions for name, value in sums.items()}
        scores["exact"] = exact / len(self._batches.examples)
        if self._answers:
            scores["macro_f1"] = f1.value
        if self._on_policy is not None:
            scores |= self._on_policy.score(self._batches.examples)
        return scores

    def _judged(self, batch: Batch) -> torch.Tensor:
        """(positions,) bool; of a classification those of last answers, else all."""
        examples = [self._batches.examples[member] for member in batch.members]
        parts = [np.ones(len(example.targets), dtype=np.bool_) for example in examples]
        for part, example in zip(parts, examples, strict=True):
            if self._answers:
                part[: -len(example.stretches[-1])] = False
        return torch.from_numpy(np.concatenate(parts))

    def _signal(self, batch: Batch) -> Signal:
        if self._store is not None:
            rows = [self._batches.examples[member].row for member in batch.members]
            soft = self._store.read(rows).to(self._precision.device)
            return StoredSignal(soft, batch.targets)
        if self._teacher is not None:
            read = batch if self._rows is None else self._rows.batch(batch)
            states = self._teacher.states(read, all_layers=False, attentions=False)
            return live_signal(self._teacher, states.supervised, batch, self._rows)
        return HardLabels(batch.targets)


class _MacroF1:
    """The mean of the F1 of some answers.

    Which wrong answer is given shows where it leaves the right one, for behind that nothing is
    known: the one answer that goes on so; none of them, where several do.
    """

    def __init__(self, answers: Sequence[tuple[int, ...]]) -> None:
        self._answers = answers
        self._right, self._given, self._said = np.zeros((3, len(answers)))

    def count(self, batch: Batch, said: Sequence[int], judged: Sequence[bool]) -> None:
        """Add a batch whose positions have these likeliest tokens; some of them are judged."""
        everywhere = zip(batch.owners.tolist(), batch.targets.tolist(), said, strict=True)
        positions = itertools.compress(everywhere, judged)
        for _, of_one in itertools.groupby(positions, key=operator.itemgetter(0)):
            _, targets, tokens = zip(*of_one, strict=True)
            self._count_one(targets, tokens)

    def _count_one(self, targets: tuple[int, ...], tokens: tuple[int, ...]) -> None:
        given = self._answers.index(targets)
        self._given[given] += 1
        if tokens == targets:
            self._right[given] += 1
            self._said[given] += 1
            return
        pairs = enumerate(zip(tokens, targets, strict=True), start=1)
        length = next(place for place, (token, target) in pairs if token != target)
        begin = tokens[:length]
        found = [place for place, one in enumerate(self._answers) if one[:length] == begin]
        if len(found) == 1:
            self._said[found[0]] += 1

    @property
    def value(self) -> float:
        """Of what was counted."""
        return float((2 * self._right / (self._given + self._said)).mean())


@torch.inference_mode()
def probe_logits(model: CausalModel, batches: Batches) -> torch.Tensor:
    """Logits (positions, V) in float32 on the first supervised positions, 64 at most, on the CPU.

    To be compared with those of a model that should compute the same; in evaluation mode.
    """
    found: list[torch.Tensor] = []
    missing = _PROBED_POSITIONS
    for batch in batches.in_order():
        hidden = run_decoder(model, batch.to(model.device)).supervised
        found.append(vocabulary_logits(model, hidden[:missing]).cpu())
        missing -= found[-1].shape[0]
        if missing <= 0:
            break
    return torch.cat(found)
