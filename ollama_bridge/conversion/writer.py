"""Writes the GGUF file, one tensor after another.

Memory is bounded by the largest tensor: sizes are known from the plans, so header and table are
written first, and each tensor is read, encoded and written before the next. The same input gives
the same bytes, however many processes encode; no time and no path is in the file.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

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
    Rows,
    default_processes,
    encode_here,
)

# Numbers to be searched for below which processes would take longer to start than to help.
_WORTH_PROCESSES = 1 << 23


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
) -> None:
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
        total = sum(math.prod(plan.shape) for plan in searched)
        processes = default_processes() if total >= _WORTH_PROCESSES else 0
    try:
        _write_head(path, architecture, entries, plans, types)
        with path.open("ab") as file, _encoder(searched, processes) as encode:
            _write_tensors(file, plans, types, importance or {}, encode, on_tensor)
    except OSError as exc:
        raise_if_disk_full(exc, path)
        raise


Encode = Callable[[Iterable[Rows | Bytes]], Iterator[Bytes]]


@contextlib.contextmanager
def _encoder(searched: Sequence[TensorPlan], processes: int) -> Iterator[Encode]:
    if not searched or not processes:
        yield encode_here
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
    file: IO[bytes],
    plans: Sequence[TensorPlan],
    types: TypePlan,
    importance: Mapping[str, Float32Array],
    encode: Encode,
    on_tensor: Callable[[int], None],
) -> None:
    def all_pieces() -> Iterator[Rows | Bytes]:
        for plan in plans:
            type_, weights = types[plan.name], importance.get(plan.name)
            yield from pieces(plan.name, plan.load(), type_, weights)

    sizes = [encoded_size(plan.shape, types[plan.name]) for plan in plans]
    _pad(file)
    done, written = 0, 0
    for piece in encode(all_pieces()):
        file.write(piece.data)
        written += piece.nbytes
        if written == sizes[done]:
            _pad(file)
            done, written = done + 1, 0
            on_tensor(done)


def _pad(file: IO[bytes]) -> None:
    file.write(bytes(-file.tell() % GGUF_DEFAULT_ALIGNMENT))
