"""Texts with the log-probabilities that a model gave them, to be compared with what it gives later.

Between the two, the model's weights or its arithmetic were changed: how far that moves it is the
mean KL divergence over the positions kept, of the whole vocabulary or of what a daemon shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ollama_bridge.reference import COMPARED_FLOOR, SERVED_TOP, Noise

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BATCH_VALUES = 1 << 26  # logits at a time
_SMALLEST_REST = 1e-9


@dataclass(frozen=True)
class Text:
    """Token ids, and at how many of the last positions the model's prediction counts."""

    token_ids: tuple[int, ...]
    keep: int


@dataclass(frozen=True)
class _Scored:
    """(len(rows), V) log-probabilities at some of a text's positions."""

    text: Text
    rows: list[int]
    logprobs: torch.Tensor


class ScoredTexts:
    """Texts, and the log-probabilities of each."""

    def __init__(self) -> None:
        self._scored: list[_Scored] = []

    @classmethod
    def of(cls, model: PreTrainedModel, texts: Sequence[Text]) -> ScoredTexts:
        """Score texts by a model as it is now."""
        scored = cls()
        for text, logprobs in _logprobs(model, texts):
            scored.add(text, logprobs)
        return scored

    @property
    def positions(self) -> int:
        """How many predictions are compared."""
        return sum(len(scored.rows) for scored in self._scored)

    def add(self, text: Text, logprobs: torch.Tensor, *, rows: Sequence[int] | None = None) -> None:
        """Take a text that was scored already.

        Args:
            logprobs: (keep, V) of it.
            rows: Which of the kept positions count; None: all.
        """
        counted = list(range(text.keep)) if rows is None else list(rows)
        self._scored.append(_Scored(text, counted, logprobs[counted]))

    def mean_kl(self, model: PreTrainedModel) -> float:
        """Mean over the positions of KL(then || now), in nats."""
        total = 0.0
        for exact, moved in self._pairs(model):
            total += float((exact.exp() * (exact - moved)).sum())
        return max(total / max(self.positions, 1), 0.0)

    def noise(self, model: PreTrainedModel) -> Noise:
        """How far a daemon that computes like the model, as it is now, would seem to have moved.

        Of a daemon's distribution only the likeliest tokens are to be seen, so both are compared
        on those that they share, with one bucket for the rest (``verify.scores``).
        """
        worst, kls = 0.0, [torch.zeros(0)]
        for exact, moved in self._pairs(model):
            likely = exact >= COMPARED_FLOOR
            gaps = (exact - moved)[likely].abs()
            if gaps.numel():  # a model that knows nothing has no likely token
                worst = max(worst, float(gaps.max()))
            kls.append(_served_kl(exact, moved))
        kl = torch.cat(kls)
        return Noise(max_difference=worst, mean_kl_nats=float(kl.sum()) / max(len(kl), 1))

    def _pairs(self, model: PreTrainedModel) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        by_text: dict[Text, list[_Scored]] = {}
        for scored in self._scored:
            by_text.setdefault(scored.text, []).append(scored)
        for text, moved in _logprobs(model, list(by_text)):
            for scored in by_text[text]:
                yield scored.logprobs, moved[scored.rows]


def _served_kl(exact: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
    """(N,) of (N, V) log-probabilities: KL(exact || moved) as far as a daemon shows it."""
    shown = []
    for logprobs in (exact, moved):
        likeliest = logprobs.topk(min(SERVED_TOP, logprobs.shape[-1]), dim=-1).indices
        shown.append(torch.zeros_like(logprobs, dtype=torch.bool).scatter_(-1, likeliest, True))
    shared = shown[0] & shown[1]
    kl = torch.where(shared, exact.exp() * (exact - moved), 0).sum(-1)
    rests = [
        (1 - torch.where(shared, logprobs.exp(), 0).sum(-1)).clamp(min=_SMALLEST_REST)
        for logprobs in (exact, moved)
    ]
    return (kl + rests[0] * (rests[0] / rests[1]).log()).clamp(min=0)


@torch.inference_mode()
def _logprobs(model: PreTrainedModel, texts: Sequence[Text]) -> Iterator[tuple[Text, torch.Tensor]]:
    """Each text with the model's (keep, V) log-probabilities; shorter texts first.

    Several texts at a time, padded in front: a model whose products round their weights does so
    once for all of them.
    """
    ordered = sorted(texts, key=lambda text: len(text.token_ids))
    widest = max((text.keep for text in ordered), default=1)
    size = max(1, _BATCH_VALUES // (widest * model.config.vocab_size))
    for start in range(0, len(ordered), size):
        batch = ordered[start : start + size]
        longest = max(len(text.token_ids) for text in batch)
        ids = torch.zeros((len(batch), longest), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(batch):
            ids[row, longest - len(text.token_ids) :] = torch.tensor(text.token_ids)
            mask[row, longest - len(text.token_ids) :] = 1
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=max(text.keep for text in batch),
        ).logits
        for row, text in enumerate(batch):
            yield text, torch.log_softmax(logits[row, -text.keep :].float(), dim=-1)
