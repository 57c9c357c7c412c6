"""Batches of encoded examples of similar length, what they begin with in common split off.

Knows neither models nor losses.

Letters for shapes: B examples of a batch, T padded tokens of the longest, P tokens that every
example begins with, S supervised positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ollama_bridge.encoding.encode import EncodedExample

# A shorter beginning in common is not worth a forward pass of its own.
_MIN_PREFIX_TOKENS = 8


@dataclass(frozen=True)
class Whole:
    """What a batch holds that is computed in parts.

    Attributes:
        rows: Examples.
        positions: Supervised positions.
        tokens: Real tokens behind the prefix.
    """

    rows: int
    positions: int
    tokens: int


@dataclass(frozen=True)
class Batch:
    """Some examples, padded on the right and cut behind the last token that predicts.

    A part of a larger batch knows the whole: means are over all of it, so that the parts' losses
    (and gradients) add up to those of the whole, however it is split.

    Attributes:
        members: Places of the examples in the sequence they came from.
        prefix_ids: (P,) int64; the tokens that all examples begin with. P may be 0.
        input_ids: (B, T) int64; what follows the prefix.
        attention_mask: (B, P + T) int64; 1 on tokens, 0 on padding.
        position_ids: (B, T) int64; P, P + 1, ...
        predictors: (S,) int64; supervised positions in the flattened (B * T), example by example.
        targets: (S,) int64; the tokens to predict there.
        owners: (S,) int64; to which of the B examples a position belongs.
        tokens: Real tokens, the prefix counted for every example.
        whole: The batch of which this is a part; None if it is a batch of its own.
    """

    members: tuple[int, ...]
    prefix_ids: torch.Tensor
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    predictors: torch.Tensor
    targets: torch.Tensor
    owners: torch.Tensor
    tokens: int
    whole: Whole | None = None

    def position_mean(self, total: torch.Tensor) -> torch.Tensor:
        """What a sum over supervised positions adds to the mean over the whole batch's."""
        return total / (self.targets.shape[0] if self.whole is None else self.whole.positions)

    def token_mean(self, values: torch.Tensor) -> torch.Tensor:
        """What values on real tokens add to their mean over the whole batch.

        Args:
            values: (P + tokens,) with the shared prefix once, as ``models.compute.forward`` gives
                layers, or (tokens,) without it.
        """
        if self.whole is None:
            return values.mean()
        rows = len(self.members)
        shared = values.shape[0] - (self.tokens - rows * self.prefix_ids.shape[0])
        # Every part computes the prefix; together they count it once.
        total = values[:shared].sum() * (rows / self.whole.rows) + values[shared:].sum()
        return total / (shared + self.whole.tokens)

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        moved: dict[str, Any] = {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in vars(self).items()
        }
        return Batch(**moved)


class Batches:
    """Batches of similar length over a sequence of examples.

    How many there are depends on the lengths alone, so every epoch has as many. A batch holds at
    most ``batch_tokens`` tokens with padding and prefix, or a single example that is longer.

    Args:
        examples: Not empty.
        batch_tokens: Limit of a batch.
        pad_id: Fills up; never seen by a real token.
        share_prefix: Split off what all examples begin with, to be computed once a batch. Changes
            results by rounding only, but that losses between layers count it once.
    """

    def __init__(
        self,
        examples: Sequence[EncodedExample],
        *,
        batch_tokens: int,
        pad_id: int,
        share_prefix: bool = True,
    ) -> None:
        self.examples = examples
        self._pad_id = pad_id
        self._targets = [example.targets for example in examples]
        # The last token that predicts is the last that has to be read.
        self._lengths = np.array(
            [targets[-1] if len(targets) else 1 for targets in self._targets], dtype=np.int64
        )
        self._prefix = self._common_prefix() if share_prefix else np.empty(0, np.int32)
        self._sizes = self._cut(np.sort(self._lengths, kind="stable"), batch_tokens)

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self._sizes)

    @property
    def longest(self) -> int:
        """Tokens of the longest example that are read."""
        return int(self._lengths.max())

    def order(self, *, seed: int, epoch: int) -> list[tuple[int, ...]]:
        """The members of every batch of an epoch; the same for the same arguments, always.

        Examples of one length are mixed anew in every epoch, and so are the batches.
        """
        generator = np.random.default_rng((seed, epoch))
        shuffled = generator.permutation(len(self.examples))
        batches = self._slice(shuffled)
        return [batches[number] for number in generator.permutation(len(batches))]

    def sorted(self) -> list[tuple[int, ...]]:
        """The members of every batch, short examples first: for passes without training."""
        return self._slice(np.arange(len(self.examples)))

    def in_order(self) -> Iterator[Batch]:
        """Every example once, short ones first."""
        for members in self.sorted():
            yield self.collate(members)

    def split(self, members: Sequence[int], batch_tokens: int) -> list[tuple[int, ...]]:
        """Cut the members of a batch into parts of at most so many padded tokens.

        A part is never empty; an example that is longer is a part of its own.
        """
        if not members:
            return []
        sizes = self._cut(self._lengths[list(members)], batch_tokens)
        return [
            tuple(members[end - size : end])
            for end, size in zip(np.cumsum(sizes), sizes, strict=True)
        ]

    def heaviest(self, batch_tokens: int) -> tuple[int, ...]:
        """The part, of those that :meth:`split` makes, with most padded tokens."""
        parts = [part for members in self.sorted() for part in self.split(members, batch_tokens)]
        return max(parts, key=self.padded_tokens)

    def padded_tokens(self, members: Sequence[int]) -> int:
        """Tokens that are computed for some examples, the prefix counted for each."""
        return len(members) * int(self._lengths[list(members)].max())

    def tokens(self, members: Sequence[int]) -> int:
        """Real tokens of some examples."""
        return int(self._lengths[list(members)].sum())

    def collate(self, members: Sequence[int], *, whole: Sequence[int] | None = None) -> Batch:
        """Make one batch.

        Args:
            members: Its examples, short ones first.
            whole: The members of the batch that it is a part of; None: it is no part.
        """
        shared = len(self._prefix)
        width = int(self._lengths[list(members)].max()) - shared
        input_ids = np.full((len(members), width), self._pad_id, dtype=np.int64)
        mask = np.zeros((len(members), shared + width), dtype=np.int64)
        predictors, targets, owners = [], [], []
        for place, member in enumerate(members):
            ids, length = self.examples[member].input_ids, int(self._lengths[member])
            input_ids[place, : length - shared] = ids[shared:length]
            mask[place, :length] = 1
            positions = self._targets[member]
            predictors.append(place * width + positions - 1 - shared)
            targets.append(ids[positions])
            owners.append(np.full(len(positions), place))
        return Batch(
            members=tuple(int(member) for member in members),
            prefix_ids=torch.from_numpy(self._prefix.astype(np.int64)),
            input_ids=torch.from_numpy(input_ids),
            attention_mask=torch.from_numpy(mask),
            position_ids=torch.arange(shared, shared + width).expand(len(members), width),
            predictors=torch.from_numpy(np.concatenate(predictors).astype(np.int64)),
            targets=torch.from_numpy(np.concatenate(targets).astype(np.int64)),
            owners=torch.from_numpy(np.concatenate(owners).astype(np.int64)),
            tokens=int(mask.sum()),
            whole=None if whole is None or len(whole) == len(members) else self._whole(whole),
        )

    def _whole(self, members: Sequence[int]) -> Whole:
        return Whole(
            rows=len(members),
            positions=sum(len(self._targets[member]) for member in members),
            tokens=self.tokens(members) - len(members) * len(self._prefix),
        )

    def _slice(self, sequence: np.ndarray[Any, Any]) -> list[tuple[int, ...]]:
        by_length = sequence[np.argsort(self._lengths[sequence], kind="stable")]
        ends = np.cumsum(self._sizes)
        return [
            tuple(int(member) for member in by_length[end - size : end])
            for end, size in zip(ends, self._sizes, strict=True)
        ]

    def _common_prefix(self) -> np.ndarray[Any, np.dtype[np.int32]]:
        first = self.examples[0].input_ids
        # Every example keeps a token of its own, and predicts nothing inside the prefix.
        limit = min(int(targets[0]) - 1 if len(targets) else 0 for targets in self._targets)
        for example in self.examples:
            same = first[:limit] == example.input_ids[:limit]
            limit = limit if same.all() else int(np.argmin(same))
        return first[: limit if limit >= _MIN_PREFIX_TOKENS else 0]

    @staticmethod
    def _cut(lengths: np.ndarray[Any, Any], batch_tokens: int) -> list[int]:
        """Sizes of the batches over ascending lengths."""
        sizes, size = [], 0
        for length in lengths:
            if size and (size + 1) * int(length) > batch_tokens:
                sizes.append(size)
                size = 0
            size += 1
        return [*sizes, size]
