"""Writes the GGUF file, one tensor after another.

Memory is bounded by the largest tensor: sizes are known from the plans, so header and table are
written first, and each tensor is read, encoded and written before the next. The same input gives
the same bytes, however many processes encode; no time and no path is in the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

import numpy as np
from gguf.constants import GGUF_DEFAULT_ALIGNMENT
from gguf.gguf_writer import GGUFWriter

from ollama_bridge.artifacts import raise_if_disk_full
from ollama_bridge.conversion.encoding import PIECE_VALUES, pieces
from ollama_bridge.conversion.tensors import TensorPlan
from ollama_bridge.errors import ConversionError
from ollama_bridge.models.architectures.entries import Entry
from ollama_bridge.quantization.encoders import BLOCK_TYPES, Bytes, Float32Array, encoded_size
from ollama_bridge.quantization.mixes import TypePlan
from ollama_bridge.quantization.workers import (
    EncoderPool,
    Piece,
    default_processes,
    encode_here,
    encode_in_threads,
)

# Numbers below which processes, or threads, would take longer to start than to help.
_WORTH_PROCESSES = 1 << 23
_WORTH_THREADS = 1 << 20
_FLUSH_BYTES = 1 << 26


def write_gguf(
    path: Path,
    *,
    architecture: str,
    entries: Sequence[Entry],
    plans: Sequence[TensorPlan],
    types: TypePlan,
    importance: Mapping[str, Float32Array] | None = None,
    processes: int | None = None,
    on_tensor: Callable[[int], None],
) -> str:
    """Write one model.

    Args:
        path: Where to.
        architecture: ``general.architecture``.
        entries: All other metadata.
        plans: The tensors, in order.
        types: The type of each; its rows have to divide into the type's blocks.
        importance: (columns,) weights of errors, by tensor; None: none are known.
        processes: That encode; None: as many as the work is worth. They do not change a byte.
        on_tensor: Told how many tensors are written.

    Returns:
        sha256 of the file, in hex.

    Raises:
        ConversionError: a key comes twice, or a tensor cannot be encoded.
        DiskFullError: there is no room.
    """
    keys = [entry.key for entry in entries]
    doubled = {key for key in keys if keys.count(key) > 1}
    if doubled:
        raise ConversionError(f"metadata keys come twice: {', '.join(sorted(doubled))}")
    searched = [plan for plan in plans if types[plan.name] in BLOCK_TYPES]
    if processes is None:
        processes = default_processes() if _numbers(searched) >= _WORTH_PROCESSES else 0
    threads = not searched and _numbers(plans) >= _WORTH_THREADS
    try:
        _write_head(path, architecture, entries, plans, types)
        with (
            path.open("ab", buffering=0) as stream,
            _HashedFile(stream, path) as file,
            _encoder(searched, processes, threads=threads) as encode,
        ):
            _write_tensors(file, plans, types, importance or {}, encode, on_tensor)
        return file.sha256.hexdigest()
    except OSError as exc:
        raise_if_disk_full(exc, path)
        raise


Encode = Callable[[Iterable[Piece]], Iterator[Bytes]]


class _HashedFile:
    """A file that is only appended to, and its digest: it need not be read again for that.

    The disk is kept at work beside the encoders: left to the end, its part would come on top.
    """

    def __init__(self, stream: io.FileIO, path: Path) -> None:
        self._stream = stream
        head = path.read_bytes()
        self.sha256 = hashlib.sha256(head)
        self._size_bytes = len(head)
        self._disk = ThreadPoolExecutor(1)
        self._flushed_bytes = 0
        self._flush: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._disk.shutdown()
        if kind is None and self._flush is not None:
            self._flush.result()

    def write(self, data: memoryview | bytes) -> None:
        rest = memoryview(data)
        while rest:  # one call writes 2 GB at most
            rest = rest[self._stream.write(rest) :]
        self.sha256.update(data)
        self._size_bytes += len(data)
        self._flush_if_due()

    def _flush_if_due(self) -> None:
        if self._size_bytes - self._flushed_bytes < _FLUSH_BYTES:
            return
        if self._flush is not None:
            if not self._flush.done():
                return
            self._flush.result()  # a full disk can show only here
        self._flushed_bytes = self._size_bytes
        self._flush = self._disk.submit(_to_disk, self._stream.fileno())

    def pad(self) -> None:
        self.write(bytes(-self._size_bytes % GGUF_DEFAULT_ALIGNMENT))


# Not on macOS.
_to_disk: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)


def _numbers(plans: Sequence[TensorPlan]) -> int:
    return sum(math.prod(plan.shape) for plan in plans)


@contextlib.contextmanager
def _encoder(searched: Sequence[TensorPlan], processes: int, *, threads: bool) -> Iterator[Encode]:
    if not searched or not processes:
        yield encode_in_threads if threads else encode_here
        return
    columns = max(plan.shape[-1] for plan in searched)
    with EncoderPool(processes, max_values=max(PIECE_VALUES, columns), max_columns=columns) as pool:
        yield pool.encode


def _write_head(
    path: Path,
    architecture: str,
    entries: Sequence[Entry],
    plans: Sequence[TensorPlan],
    types: TypePlan,
) -> None:
    """Metadata and the table of tensors."""
    writer = GGUFWriter(path, architecture)
    for entry in entries:
        writer.add_key_value(entry.key, entry.value, entry.type, entry.element_type)
    for plan in plans:
        type_ = types[plan.name]
        # The logical shape goes with any type but uint8, which would mean a shape in bytes.
        size_bytes = encoded_size(plan.shape, type_)
        writer.add_tensor_info(
            plan.name, plan.shape, np.dtype(np.float32), size_bytes, raw_dtype=type_
        )
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.flush()
    except BaseException:
        with contextlib.suppress(OSError):  # closing flushes again; the first error counts
            writer.close()
        raise
    writer.close()


def _write_tensors(
    file: _HashedFile,
    plans: Sequence[TensorPlan],
    types: TypePlan,
    importance: Mapping[str, Float32Array],
    encode: Encode,
    on_tensor: Callable[[int], None],
) -> None:
    def all_pieces() -> Iterator[Piece]:
        for plan in plans:
            type_, weights = types[plan.name], importance.get(plan.name)
            yield from pieces(plan.name, plan.load(), type_, weights)

    sizes = [encoded_size(plan.shape, types[plan.name]) for plan in plans]
    file.pad()
    done, written = 0, 0
    for piece in encode(all_pieces()):
        file.write(piece.reshape(-1).data)
        written += piece.nbytes
        if written == sizes[done]:
            file.pad()
            done, written = done + 1, 0
            on_tensor(done)
