"""What is known of the teacher's distributions on a batch: nothing, soft labels, or everything.

Letters: N supervised positions of a batch, n of a chunk, V vocabulary, D width.
"""

from __future__ import annotations

import functools
from typing import Protocol

import torch

from ollama_bridge.alignment.positions import HOLE
from ollama_bridge.encoding.batches import Batch
from ollama_bridge.errors import TrainingError
from ollama_bridge.label_store.labels import SampledTargets, SoftTargets, Targets
from ollama_bridge.train.live_teacher import LiveTeacher
from ollama_bridge.train.losses import vocabulary as losses
from ollama_bridge.train.losses.hybrid import MatchedTokens, hybrid_universal
from ollama_bridge.train.losses.sparse import (
    Divergence,
    kl_reverse_classes,
    kl_sampled,
    over_classes,
)
from ollama_bridge.train.losses.split_logits import SplitLogits, split_logits, teacher_classes
from ollama_bridge.train.teacher_rows import TeacherRows

Pair = tuple[torch.Tensor, torch.Tensor]


class Comparison(Protocol):
    """Some positions' logits beside their labels and what is known of the teacher there."""

    def cross_entropy(self) -> torch.Tensor:
        """On the hard labels, (n,)."""

    def kl_forward(self, *, temperature: float) -> torch.Tensor:
        """The forward KL divergence, (n,).

        Raises:
            TrainingError: it cannot be had at this temperature, or not at all.
        """

    def kl_reverse(self, *, temperature: float) -> torch.Tensor:
        """The reverse KL divergence, (n,).

        Raises:
            TrainingError: it cannot be had.
        """

    def divergence(self, loss: Divergence, *, temperature: float) -> torch.Tensor:
        """Another loss between two distributions, (n,).

        Args:
            loss: Finite where the teacher excludes a token.
            temperature: T > 0.

        Raises:
            TrainingError: it cannot be had.
        """

    def universal(self, *, temperature: float) -> torch.Tensor:
        """The distance of sorted probabilities, (n,); 0 where the teacher predicts nothing.

        Raises:
            TrainingError: not all of the teacher's probabilities are known.
        """

    def hybrid_universal(self, *, temperature: float, unmatched_weight: float) -> torch.Tensor:
        """The KL divergence over common tokens and ULD over the rest, (n,); 0 as above.

        Raises:
            TrainingError: not all of the teacher's probabilities are known.
        """


class Signal(Protocol):
    """What is known on the N positions of a batch."""

    def beside(self, logits: torch.Tensor, part: slice) -> Comparison:
        """Put the student's logits (n, V) of some of the positions beside it."""


class HardLabels:
    """The answers of the corpus alone, (N,)."""

    def __init__(self, targets: torch.Tensor) -> None:
        self._targets = targets

    def beside(self, logits: torch.Tensor, part: slice) -> Comparison:
        """See :class:`Signal`."""
        return _Hard(logits, self._targets[part])


class StoredSignal:
    """Soft labels of a store, beside (N,) hard labels.

    Raises:
        TrainingError: they are of other numbers of positions.
    """

    def __init__(self, soft: Targets, targets: torch.Tensor) -> None:
        if len(soft) != targets.shape[0]:
            raise TrainingError(
                f"{targets.shape[0]} supervised positions, soft labels for {len(soft)}"
            )
        self._soft = soft
        self._targets = targets

    def beside(self, logits: torch.Tensor, part: slice) -> Comparison:
        """See :class:`Signal`."""
        soft, targets = self._soft[part], self._targets[part]
        if isinstance(soft, SampledTargets):
            return _Sampled(logits, targets, soft)
        assert isinstance(soft, SoftTargets)
        return _Stored(logits, targets, soft)


class LiveSignal:
    """A teacher that was run on the same batch; its head is applied where logits are asked for.

    Args:
        teacher: Whose head.
        hidden: (N, D) of the teacher.
        targets: (N,) hard labels.
    """

    def __init__(self, teacher: LiveTeacher, hidden: torch.Tensor, targets: torch.Tensor) -> None:
        self._teacher = teacher
        self._hidden = hidden
        self._targets = targets

    def beside(self, logits: torch.Tensor, part: slice) -> Comparison:
        """See :class:`Signal`."""
        return _Live(logits, self._targets[part], self._teacher, self._hidden[part])


class MatchedSignal:
    """A teacher that read the same conversations in its own tokens.

    Args:
        teacher: Whose head.
        hidden: (its positions, D) of the teacher.
        places: (N,) which of its positions stands where the student's does; ``HOLE``: none.
        tokens: Of both vocabularies.
        targets: (N,) hard labels.
    """

    def __init__(
        self,
        teacher: LiveTeacher,
        hidden: torch.Tensor,
        places: torch.Tensor,
        tokens: MatchedTokens,
        targets: torch.Tensor,
    ) -> None:
        self._teacher = teacher
        self._hidden = hidden
        self._places = places
        self._tokens = tokens
        self._targets = targets

    def beside(self, logits: torch.Tensor, part: slice) -> Comparison:
        """See :class:`Signal`."""
        places = self._places[part]
        matched = torch.nonzero(places != HOLE)[:, 0]
        hidden = self._hidden[places[matched]]
        return _Matched(logits, self._targets[part], self._teacher, hidden, matched, self._tokens)


def live_signal(
    teacher: LiveTeacher, hidden: torch.Tensor, batch: Batch, rows: TeacherRows | None
) -> Signal:
    """What a teacher that was run on a batch says of it.

    Args:
        teacher: Whose head.
        hidden: (its positions, D) of the teacher.
        batch: As the student reads it.
        rows: What the teacher read instead; None: the same.
    """
    if rows is None:
        return LiveSignal(teacher, hidden, batch.targets)
    tokens = rows.tokens.to(hidden.device)
    return MatchedSignal(teacher, hidden, rows.places(batch), tokens, batch.targets)


class _Hard:
    def __init__(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        self._logits = logits
        self._targets = targets

    def cross_entropy(self) -> torch.Tensor:
        return losses.cross_entropy(self._logits, self._targets)

    def kl_forward(self, *, temperature: float) -> torch.Tensor:
        return self.divergence(losses.kl_forward, temperature=temperature)

    def kl_reverse(self, *, temperature: float) -> torch.Tensor:
        return self.divergence(losses.kl_reverse, temperature=temperature)

    def divergence(self, loss: Divergence, *, temperature: float) -> torch.Tensor:
        return loss(*self._common(), temperature=temperature)

    def universal(self, *, temperature: float) -> torch.Tensor:
        return losses.universal(*self._common(), temperature=temperature)

    def hybrid_universal(self, *, temperature: float, unmatched_weight: float) -> torch.Tensor:
        del unmatched_weight  # with one vocabulary there is no rest
        return losses.kl_forward(*self._common(), temperature=temperature)

    def _common(self) -> Pair:
        raise TrainingError("this loss needs the teacher's distributions, and there are none")


class _Stored:
    def __init__(self, logits: torch.Tensor, targets: torch.Tensor, soft: SoftTargets) -> None:
        self._logits = logits
        self._targets = targets
        self._soft = soft

    @functools.cached_property
    def _split(self) -> SplitLogits:
        return split_logits(self._logits, self._soft.ids, self._targets)

    def cross_entropy(self) -> torch.Tensor:
        return self._split.cross_entropy()

    def kl_forward(self, *, temperature: float) -> torch.Tensor:
        return self.divergence(losses.kl_forward, temperature=temperature)

    def kl_reverse(self, *, temperature: float) -> torch.Tensor:
        return kl_reverse_classes(*self._classes, has_rest=self._has_rest, temperature=temperature)

    def divergence(self, loss: Divergence, *, temperature: float) -> torch.Tensor:
        return over_classes(loss, *self._classes, has_rest=self._has_rest, temperature=temperature)

    @property
    def _has_rest(self) -> bool:
        return self._soft.ids.shape[1] < self._logits.shape[1]

    @property
    def _classes(self) -> Pair:
        """Student's and teacher's tokens that were kept, and all others as one."""
        theirs = teacher_classes(self._soft, vocabulary=self._logits.shape[1])
        return self._split.classes, theirs

    def universal(self, *, temperature: float) -> torch.Tensor:
        del temperature
        raise TrainingError(
            "soft labels do not hold every token's probability", hint="--set distill.teacher=live"
        )

    def hybrid_universal(self, *, temperature: float, unmatched_weight: float) -> torch.Tensor:
        del unmatched_weight
        return self.universal(temperature=temperature)


class _Sampled(_Hard):
    def __init__(self, logits: torch.Tensor, targets: torch.Tensor, soft: SampledTargets) -> None:
        super().__init__(logits, targets)
        self._soft = soft

    def kl_forward(self, *, temperature: float) -> torch.Tensor:
        return kl_sampled(self._logits, self._soft, temperature=temperature)

    def _common(self) -> Pair:
        raise TrainingError(
            "tokens that were drawn at random give the forward KL alone",
            hint="--set soft_labels.method=top_k, or --set distill.teacher=live",
        )


class _Live(_Hard):
    def __init__(
        self,
        logits: torch.Tensor,
        targets: torch.Tensor,
        teacher: LiveTeacher,
        hidden: torch.Tensor,
    ) -> None:
        super().__init__(logits, targets)
        self._teacher = teacher
        self._hidden = hidden

    @functools.cached_property
    def _theirs(self) -> torch.Tensor:
        return self._teacher.logits(self._hidden)

    def _common(self) -> Pair:
        """All tokens: with one tokenizer, what a wider head has in addition is padding."""
        width = min(self._logits.shape[1], self._theirs.shape[1])
        return self._logits[:, :width], self._theirs[:, :width]

    def universal(self, *, temperature: float) -> torch.Tensor:
        """Padding of either head too."""
        return losses.universal(self._logits, self._theirs, temperature=temperature)


class _Matched(_Live):
    """Of n positions the ``matched`` ones have hidden states of the teacher."""

    def __init__(
        self,
        logits: torch.Tensor,
        targets: torch.Tensor,
        teacher: LiveTeacher,
        hidden: torch.Tensor,
        matched: torch.Tensor,
        tokens: MatchedTokens,
    ) -> None:
        super().__init__(logits, targets, teacher, hidden)
        self._matched = matched
        self._tokens = tokens

    @functools.cached_property
    def _pair(self) -> Pair:
        return self._logits[self._matched], self._theirs

    def universal(self, *, temperature: float) -> torch.Tensor:
        return self._everywhere(losses.universal(*self._pair, temperature=temperature))

    def hybrid_universal(self, *, temperature: float, unmatched_weight: float) -> torch.Tensor:
        found = hybrid_universal(
            *self._pair, self._tokens, temperature=temperature, unmatched_weight=unmatched_weight
        )
        return self._everywhere(found)

    def _everywhere(self, found: torch.Tensor) -> torch.Tensor:
        return found.new_zeros(len(self._logits)).index_copy(0, self._matched, found)

    def _common(self) -> Pair:
        raise TrainingError(
            "teacher and student have other tokens: of the losses between distributions only "
            "hybrid_universal and universal compare them",
            hint="--set 'distill.losses=[{loss: cross_entropy}, {loss: hybrid_universal}]'",
        )
