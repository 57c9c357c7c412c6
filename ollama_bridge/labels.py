"""The soft-label store: a teacher's next-token distributions on disk.

For every supervised position it keeps the ``k`` likeliest tokens, their log-probabilities (at
temperature 1) and the logarithm of the mass that all other tokens share. Knows neither models nor
examples: positions are addressed by the number of the example's row in its split file.

Layout of a store's folder::

    labels.json                   StoreInfo: k, vocabulary, to what the labels belong
    train-00000.npy               one record a position, memory-mapped when read
    train-00000.index.npy         (examples, 2) int64: row, how many records; in record order
    train-00001.npy ...           written shard by shard; the index is written last

A record (``k`` = 20: 84 bytes below 65,536 tokens of vocabulary, 104 above) is a numpy structure:

    ids        (k, 2 or 3) uint8  token ids, little-endian, likeliest first
    logprobs   (k,) float16       natural logarithms
    residual   float32            log of the rest's mass; -inf when k is the whole vocabulary
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ollama_bridge.artifacts import canonical_json, digest_text, raise_if_disk_full
from ollama_bridge.errors import ArtifactError

FORMAT_VERSION = 1
INFO_NAME = "labels.json"

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class StoreInfo:
    """What a store holds and to what it belongs.

    Attributes:
        top_k: Tokens kept a position.
        vocab_size: Width of the teacher's distribution.
        teacher: Digest of the teacher's checkpoint.
        corpus: Digest of the corpus.
        tokenizer: Digest of vocabulary and chat template.
        max_length: Longer examples are not in it.
        format_version: Of the files.
    """

    top_k: int
    vocab_size: int
    teacher: str
    corpus: str
    tokenizer: str
    max_length: int
    format_version: int = FORMAT_VERSION

    @property
    def content_key(self) -> str:
        """sha256 (hex) of everything that decides the labels."""
        return digest_text(canonical_json(asdict(self)))

    @property
    def record(self) -> np.dtype[Any]:
        """The numpy type of one position."""
        id_bytes = 2 if self.vocab_size <= 2**16 else 3
        return np.dtype(
            [
                ("ids", "u1", (self.top_k, id_bytes)),
                ("logprobs", "<f2", (self.top_k,)),
                ("residual", "<f4"),
            ]
        )

    @property
    def bytes_per_token(self) -> int:
        """Disk space of one position."""
        return int(self.record.itemsize)


@dataclass(frozen=True)
class SoftTargets:
    """Distributions on N positions, as ``train.sparse_losses.kl_top_k`` takes them.

    Attributes:
        ids: (N, k) int64.
        logprobs: (N, k) float32.
        residual: (N,) float32, the logarithm of the rest's mass.
    """

    ids: torch.Tensor
    logprobs: torch.Tensor
    residual: torch.Tensor

    def to(self, device: torch.device) -> SoftTargets:
        """The same on another device."""
        return SoftTargets(self.ids.to(device), self.logprobs.to(device), self.residual.to(device))


def top_k_with_residual(logits: torch.Tensor, *, top_k: int) -> SoftTargets:
    """Cut full distributions down to what the store keeps.

    Args:
        logits: (N, V), unnormalised.
        top_k: At most V.
    """
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    kept, ids = logprobs.topk(min(top_k, logits.shape[-1]), dim=-1)
    # 1 - sum would lose every digit of a small rest; the rest's own sum keeps them.
    residual = logprobs.scatter(-1, ids, float("-inf")).logsumexp(-1)
    return SoftTargets(ids, kept, residual)


class StoreWriter:
    """Writes a store shard by shard; a shard is there as a whole or not at all.

    Args:
        folder: Of the store. What is complete in it is kept.
        info: Has to be the one that the folder was begun with.
    """

    def __init__(self, folder: Path, info: StoreInfo) -> None:
        self._folder = folder
        self._info = info
        path = folder / INFO_NAME
        if path.exists() and read_info(folder) != info:
            raise ArtifactError(
                f"{folder} holds soft labels of another teacher, corpus or setting",
                hint=f"remove them to label again: rm -r {folder}",
            )
        text = json.dumps({**asdict(info), "bytes_per_token": info.bytes_per_token}, indent=2)
        path.write_text(text + "\n", encoding="utf-8")

    def has_shard(self, split: str, number: int) -> bool:
        """Whether an earlier run completed this shard."""
        return self._index_path(split, number).exists()

    def write_shard(
        self, split: str, number: int, *, rows: Sequence[int], targets: Sequence[SoftTargets]
    ) -> None:
        """Write one shard.

        Args:
            split: train or validation.
            number: Of the shard, from 0.
            rows: Row number of every example.
            targets: What belongs to them, in the same order.

        Raises:
            DiskFullError: no room; complete shards are kept.
        """
        counts = [int(target.ids.shape[0]) for target in targets]
        records = np.empty(sum(counts), dtype=self._info.record)
        ids = np.concatenate([target.ids.cpu().numpy() for target in targets]).astype("<u4")
        width = records["ids"].shape[-1]
        records["ids"] = (
            np.ascontiguousarray(ids).view(np.uint8).reshape(*ids.shape, 4)[..., :width]
        )
        # float16 ends at -65504, far below any probability that counts.
        kept = np.concatenate([target.logprobs.cpu().numpy() for target in targets])
        records["logprobs"] = kept.clip(-60000.0, 0.0)
        records["residual"] = np.concatenate([target.residual.cpu().numpy() for target in targets])
        index = np.array(list(zip(rows, counts, strict=True)), dtype=np.int64).reshape(-1, 2)
        _save(self._folder / f"{split}-{number:05d}.npy", records)
        _save(self._index_path(split, number), index)

    def _index_path(self, split: str, number: int) -> Path:
        return self._folder / f"{split}-{number:05d}.index.npy"


class LabelStore:
    """Reads the soft labels of one split.

    Args:
        folder: Of the store.
        split: train or validation.

    Raises:
        ArtifactError: damaged.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self.info = read_info(folder)
        self._split = split
        self._where: dict[int, tuple[Array, int, int]] = {}
        for index_path in sorted(folder.glob(f"{split}-*.index.npy")):
            index = _load(index_path)
            records = _load(index_path.with_name(index_path.name.replace(".index.npy", ".npy")))
            if records.dtype != self.info.record or int(index[:, 1].sum()) != len(records):
                raise ArtifactError(
                    f"{index_path} does not fit its records",
                    hint=f"remove the folder to label again: rm -r {folder}",
                )
            start = 0
            for row, count in index.tolist():
                self._where[row] = (records, start, count)
                start += count

    def __len__(self) -> int:
        """Examples in it."""
        return len(self._where)

    @property
    def counts(self) -> Mapping[int, int]:
        """Supervised positions by row number."""
        return {row: count for row, (_, _, count) in self._where.items()}

    def read(self, rows: Sequence[int]) -> SoftTargets:
        """The distributions of some examples, one after another.

        Raises:
            ArtifactError: a row is not in the store.
        """
        records = np.concatenate(list(self._records(rows)))
        k, width = self.info.top_k, records["ids"].shape[-1]
        ids = np.zeros((len(records), k, 4), dtype=np.uint8)
        ids[..., :width] = records["ids"]
        return SoftTargets(
            ids=torch.from_numpy(ids.view("<u4")[..., 0].astype(np.int64)),
            logprobs=torch.from_numpy(records["logprobs"].astype(np.float32)),
            residual=torch.from_numpy(records["residual"].astype(np.float32)),
        )

    def _records(self, rows: Sequence[int]) -> Iterator[Array]:
        for row in rows:
            if row not in self._where:
                raise ArtifactError(
                    f"the store has no soft labels for row {row} of the {self._split} split",
                    hint="label again with the same corpus and max_length",
                )
            records, start, count = self._where[row]
            yield records[start : start + count]


def read_info(folder: Path) -> StoreInfo:
    """Read ``labels.json``.

    Raises:
        ArtifactError: missing, damaged, or of another format version.
    """
    path = folder / INFO_NAME
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        data.pop("bytes_per_token")
        info = StoreInfo(**data)
    except (OSError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as exc:
        raise ArtifactError(
            f"{path} is no description of soft labels: {exc!r}",
            hint=f"remove the folder to label again: rm -r {folder}",
        ) from exc
    if info.format_version != FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format {info.format_version}, this version reads {FORMAT_VERSION}",
            hint=f"remove the folder to label again: rm -r {folder}",
        )
    return info


def _save(path: Path, array: Array) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as stream:
            np.save(stream, array, allow_pickle=False)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as exc:
        temporary.unlink(missing_ok=True)
        raise_if_disk_full(exc, path)
        raise


def _load(path: Path) -> Array:
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as exc:
        raise ArtifactError(
            f"{path} cannot be read: {exc}",
            hint=f"remove the folder to label again: rm -r {path.parent}",
        ) from exc
    return array
