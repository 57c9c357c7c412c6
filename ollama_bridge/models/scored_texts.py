"""Texts with the log-probabilities that a model gave them, to be compared with what it gives later.

Between the two, the model's weights or its arithmetic were changed: how far that moves it is the
mean KL divergence over the positions kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ollama_bridge.reference import COMPARED_FLOOR, Noise

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BATCH_VALUES = 1 << 26  # logits at a time


@dataclass(frozen=True)
class Text:
    """Token ids, and at how many of the last positions the model's prediction counts."""

    token_ids: tuple[int, ...]
    keep: int


class ScoredTexts:
    """Texts, and (keep, V) log-probabilities of each."""

    def __init__(self) -> None:
        self._scored: list[tuple[Text, torch.Tensor]] = []

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
        return sum(text.keep for text, _ in self._scored)

    @property
    def texts(self) -> list[Text]:
        """The texts."""
        return [text for text, _ in self._scored]

    def add(self, text: Text, logprobs: torch.Tensor) -> None:
        """Take a text that was scored already, (keep, V)."""
        self._scored.append((text, logprobs))

    def moved(self, model: PreTrainedModel) -> Noise:
        """How far the model, as it is now, lies from what it was."""
        exact = dict(self._scored)
        worst, total = 0.0, 0.0
        for text, moved in _logprobs(model, list(exact)):
            kl = (exact[text].exp() * (exact[text] - moved)).sum(-1)
            likely = exact[text] >= COMPARED_FLOOR
            worst = max(worst, float((exact[text] - moved)[likely].abs().max()))
            total += float(kl.sum())
        mean = max(total / max(sum(text.keep for text in exact), 1), 0.0)
        return Noise(max_difference=worst, mean_kl_nats=mean)


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
