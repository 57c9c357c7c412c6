"""What is kept of a distribution, as bytes: one block a row.

``top_k``: a record a position (``k`` = 20: 84 bytes below 65,536 tokens of vocabulary, 104 above)::

    ids        (k, 2 or 3) uint8  token ids, little-endian, likeliest first
    logprobs   (k,) float16       natural logarithms at temperature 1
    residual   float32            log of the rest's mass; -inf when k is the whole vocabulary

``sampled``, of n positions with m different tokens in all (twelve a position: 39 bytes)::

    tokens     (n,) uint8         different tokens of each position
    entropy    (n,) float16       of the whole distribution, nats
    ids        (m, 2 or 3) uint8  token ids, little-endian, ascending within a position
    draws      (m,) uint8         how many of the position's draws fell on the token
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from ollama_bridge.label_store.info import StoreInfo
from ollama_bridge.label_store.labels import (
    NO_MASS_LOGPROB,
    SampledTargets,
    SoftTargets,
    Targets,
    join_sampled,
    join_top_k,
    sample_tokens,
    top_k_with_residual,
)

Array = np.ndarray[Any, Any]


class LabelFormat(Protocol):
    """Writes the labels of rows as blocks, and reads them."""

    def blocks(
        self, logits: Iterable[torch.Tensor], keys: Sequence[bytes], counts: Sequence[int]
    ) -> list[bytes]:
        """Keep what is to be kept of the distributions of some rows.

        Args:
            logits: (some positions, V) each; all positions of all rows in order.
            keys: The rows.
            counts: Positions of each.
        """

    def read(self, blocks: Sequence[tuple[bytes, int]]) -> Targets:
        """The targets of some rows behind one another, of the block and the positions of each."""


def format_of(info: StoreInfo) -> LabelFormat:
    """The format that a store is written in."""
    return SampledFormat(info) if info.method == "sampled" else TopKFormat(info)


class TopKFormat:
    """The likeliest tokens, and the mass of the rest."""

    def __init__(self, info: StoreInfo) -> None:
        self._top_k = info.top_k
        self._record = np.dtype(
            [
                ("ids", "u1", (info.top_k, info.id_bytes)),
                ("logprobs", "<f2", (info.top_k,)),
                ("residual", "<f4"),
            ]
        )

    def blocks(
        self, logits: Iterable[torch.Tensor], keys: Sequence[bytes], counts: Sequence[int]
    ) -> list[bytes]:
        """See :class:`LabelFormat`."""
        kept = join_top_k([top_k_with_residual(part, top_k=self._top_k) for part in logits])
        return [block for _, block in zip(keys, self.pack(kept, counts), strict=True)]

    def pack(self, kept: SoftTargets, counts: Sequence[int]) -> list[bytes]:
        """Blocks of distributions that are cut already."""
        records = np.empty(len(kept), dtype=self._record)
        records["ids"] = _narrow(kept.ids, self._record["ids"].shape[-1])
        records["logprobs"] = kept.logprobs.cpu().numpy().clip(NO_MASS_LOGPROB, 0.0)
        records["residual"] = kept.residual.cpu().numpy()
        ends = np.cumsum(counts)
        return [records[end - n : end].tobytes() for n, end in zip(counts, ends, strict=True)]

    def read(self, blocks: Sequence[tuple[bytes, int]]) -> SoftTargets:
        """See :class:`LabelFormat`."""
        records = np.frombuffer(b"".join(block for block, _ in blocks), dtype=self._record)
        return SoftTargets(
            ids=_widen(records["ids"]),
            logprobs=torch.from_numpy(records["logprobs"].astype(np.float32)),
            residual=torch.from_numpy(records["residual"].astype(np.float32)),
        )


class SampledFormat:
    """Tokens drawn at random."""

    def __init__(self, info: StoreInfo) -> None:
        self._info = info

    def blocks(
        self, logits: Iterable[torch.Tensor], keys: Sequence[bytes], counts: Sequence[int]
    ) -> list[bytes]:
        """See :class:`LabelFormat`.

        What is drawn depends on the seed and the row alone, not on when or beside what it is.
        """
        offsets = iter(self._offsets(keys, counts))
        drawn = join_sampled(
            [
                sample_tokens(part, _take(offsets, len(part)), draws=self._info.draws)
                for part in logits
            ]
        )
        weights = drawn.weights.cpu().numpy()
        draws = np.rint(weights * self._info.draws).astype(np.uint8)
        ids = _narrow(drawn.ids, self._info.id_bytes)
        entropy = drawn.entropy.cpu().numpy().astype("<f2")
        blocks = []
        for end, count in zip(np.cumsum(counts), counts, strict=True):
            rows = slice(end - count, end)
            used = draws[rows] > 0
            parts = (
                used.sum(-1, dtype=np.uint8),
                entropy[rows],
                ids[rows][used],
                draws[rows][used],
            )
            blocks.append(b"".join(part.tobytes() for part in parts))
        return blocks

    def read(self, blocks: Sequence[tuple[bytes, int]]) -> SampledTargets:
        """See :class:`LabelFormat`."""
        columns = list(zip(*(self._parts(*block) for block in blocks), strict=True))
        tokens, entropy, ids, draws = (np.concatenate(column) for column in columns)
        used = np.arange(tokens.max(initial=0)) < tokens[:, None]
        padded_ids = torch.zeros(used.shape, dtype=torch.int64)
        weights = torch.zeros(used.shape)
        padded_ids[torch.from_numpy(used)] = _widen(ids)
        weights[torch.from_numpy(used)] = torch.from_numpy(draws.astype(np.float32))
        return SampledTargets(
            padded_ids, weights / self._info.draws, torch.from_numpy(entropy.astype(np.float32))
        )

    def _parts(self, block: bytes, count: int) -> tuple[Array, Array, Array, Array]:
        tokens = np.frombuffer(block, np.uint8, count)
        entropy = np.frombuffer(block, "<f2", count, offset=count)
        start, total, width = 3 * count, int(tokens.sum()), self._info.id_bytes
        ids = np.frombuffer(block, np.uint8, total * width, offset=start).reshape(-1, width)
        draws = np.frombuffer(block, np.uint8, total, offset=start + total * width)
        return tokens, entropy, ids, draws

    def _offsets(self, keys: Sequence[bytes], counts: Sequence[int]) -> Iterator[float]:
        for key, count in zip(keys, counts, strict=True):
            seed = [self._info.seed, *np.frombuffer(key, "<u4").tolist()]
            yield from np.random.default_rng(seed).random(count).tolist()


def _take(offsets: Iterator[float], count: int) -> torch.Tensor:
    values = [next(offsets) for _ in range(count)]
    return torch.tensor(values, dtype=torch.float64)


def _narrow(ids: torch.Tensor, width: int) -> Array:
    """Token ids (...) as little-endian bytes (..., width)."""
    wide = ids.cpu().numpy().astype("<u4")
    return np.ascontiguousarray(wide).view(np.uint8).reshape(*wide.shape, 4)[..., :width]


def _widen(ids: Array) -> torch.Tensor:
    """Token ids as they were narrowed: (..., width) uint8 to (...) int64."""
    wide = np.zeros((*ids.shape[:-1], 4), dtype=np.uint8)
    wide[..., : ids.shape[-1]] = ids
    return torch.from_numpy(wide.view("<u4")[..., 0].astype(np.int64))
