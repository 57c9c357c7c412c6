"""Logits as far as a soft-label store can compare them, in one pass over the vocabulary.

Every loss on hard labels and stored soft labels needs three things of a position's V logits: those
of the k tokens that were kept, that of the label, and the sum of all others. So the vocabulary is
read once for all of them, and the gradient written once: it is a softmax over the others, times one
factor a position, with k + 1 places set. Each loss by itself would make copies of its own.

Letters: N positions, V vocabulary, k tokens kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ollama_bridge.errors import TrainingError
from ollama_bridge.label_store.labels import SoftTargets
from ollama_bridge.train.losses.loss_terms import check_matrix, wide


@dataclass(frozen=True)
class SplitLogits:
    """What is needed of logits.

    Attributes:
        classes: (N, k + 1): the logits of the tokens that were kept, and of all others as one; or
            (N, V), where all were kept.
        label: (N,), the logit of the hard label.
    """

    classes: torch.Tensor
    label: torch.Tensor

    def cross_entropy(self) -> torch.Tensor:
        """``log sum_c exp(z_c) - z_label`` of the classes' logits z, (N,).

        The classes' sum is the vocabulary's, so it is
        :func:`~ollama_bridge.train.losses.vocabulary.cross_entropy`, of the same source. From
        differences to the largest class: where the student is sure no digit is lost.
        """
        largest = self.classes.detach().amax(-1, keepdim=True)
        total = (self.classes - largest).logsumexp(-1)
        return total - (self.label - largest.squeeze(-1))


def split_logits(logits: torch.Tensor, ids: torch.Tensor, labels: torch.Tensor) -> SplitLogits:
    """Split logits into tokens that are known and the sum of all others.

    Args:
        logits: (N, V), unnormalised.
        ids: (N, k) int64, distinct within a row; k <= V.
        labels: (N,) int64, among ``ids`` or not.

    Raises:
        TrainingError: shapes do not fit.
    """
    check_matrix(logits, "logits")
    rows, width = logits.shape
    if ids.shape[0] != rows or ids.shape[1] > width or tuple(labels.shape) != (rows,):
        raise TrainingError(
            f"soft labels of {tuple(ids.shape)} and labels of {tuple(labels.shape)} do not fit "
            f"logits of {rows, width}"
        )
    values = wide(logits)
    if ids.shape[1] == width:
        label = values.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        return SplitLogits(values.gather(-1, ids), label)
    classes, label = _Split.apply(values, ids, labels)
    return SplitLogits(classes, label)


def teacher_classes(soft: SoftTargets, *, vocabulary: int) -> torch.Tensor:
    """The teacher's log-probabilities of the same classes: (N, k + 1), or (N, V) where k = V.

    Tempering them tempers classes, as in ``sparse``.

    Args:
        soft: Of N positions.
        vocabulary: V of the student.
    """
    if soft.ids.shape[1] == vocabulary:
        return soft.logprobs
    return torch.cat([soft.logprobs, soft.residual.unsqueeze(-1)], dim=-1)


class _Split(torch.autograd.Function):
    """One reading and one writing pass, where autograd would take one for every operation."""

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, ids: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        kept = logits.gather(-1, ids)
        label = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        # 1 - sum would cancel where the student is sure; the rest's own sum does not.
        others = logits.scatter(-1, ids, float("-inf"))
        likeliest = others.amax(-1, keepdim=True)
        shares = torch.softmax(others, dim=-1)
        # The likeliest one's share is exp(likeliest - logsumexp).
        total = likeliest - shares.amax(-1, keepdim=True).log()
        ctx.shares, ctx.ids, ctx.labels = shares, ids, labels
        return torch.cat([kept, total], dim=-1), label

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, classes: torch.Tensor, label: torch.Tensor
    ) -> tuple[torch.Tensor, None, None]:
        # In place: nothing else knows this tensor, and a second pass would fail without it.
        gradient, ctx.shares = ctx.shares, None
        gradient.mul_(classes[:, -1:])
        gradient.scatter_(-1, ctx.ids, classes[:, :-1])
        gradient.scatter_add_(-1, ctx.labels.unsqueeze(-1), label.unsqueeze(-1))
        return gradient, None, None
