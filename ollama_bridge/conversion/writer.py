"""Writes the GGUF file, one tensor after another.

Memory is bounded by the largest tensor: sizes are known from the plans, so header and table are
written first, and each tensor is read, encoded and written before the next. The same input gives
the same bytes, however many processes encode; no time and no path is in the file.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from gguf.constants import GGUF_DEFAULT_ALIGNMENT

from ollama_bridge.conversion.encoding import Encode, pieces, searching_encoder
from ollama_bridge.conversion.gguf_head import TableRow, pack_head
from ollama_bridge.conversion.hashed_file import HashedFile
from ollama_bridge.conversion.tensors import TensorPlan
from ollama_bridge.errors import ConversionError
from ollama_bridge.models.architectures.entries import Entry
from ollama_bridge.quantization.encoders import BLOCK_TYPES, Float32Array, encoded_size
from ollama_bridge.quantization.mixes import TypePlan
from ollama_bridge.quantization.workers import Piece, encode_here, encode_in_threads

# Numbers below which threads would take longer to start than to help.
_WORTH_THREADS = 1 << 20


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
    """Write one model; gives the sha256 of the file, in hex. What is not whole is removed.

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
        OSError: it cannot be written.
    """
    keys = [entry.key for entry in entries]
    doubled = {key for key in keys if keys.count(key) > 1}
    if doubled:
        raise ConversionError(f"metadata keys appear twice: {', '.join(sorted(doubled))}")
    searched = [plan.shape for plan in plans if types[plan.name] in BLOCK_TYPES]
    numbers = sum(math.prod(plan.shape) for plan in plans)
    without_search = encode_in_threads if numbers >= _WORTH_THREADS else encode_here
    with (
        searching_encoder(searched, processes)
        if searched
        else contextlib.nullcontext(without_search)
    ) as encode:
        try:
            path.write_bytes(pack_head(architecture, entries, _table(plans, types)))
            with HashedFile(path) as file:
                _write_tensors(file, plans, types, importance or {}, encode, on_tensor)
                return file.finish()
        except BaseException:  # nobody goes on with what may be gigabytes
            path.unlink(missing_ok=True)
            raise


def _table(plans: Sequence[TensorPlan], types: TypePlan) -> list[TableRow]:
    return [
        TableRow(
            plan.name, plan.shape, types[plan.name], encoded_size(plan.shape, types[plan.name])
        )
        for plan in plans
    ]


def _write_tensors(
    file: HashedFile,
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
    _pad(file)
    done, written = 0, 0
    for piece in encode(all_pieces()):
        file.write(piece.reshape(-1).data)
        written += piece.nbytes
        if written == sizes[done]:
            _pad(file)
            done, written = done + 1, 0
            on_tensor(done)


def _pad(file: HashedFile) -> None:
    file.write(bytes(-file.size_bytes % GGUF_DEFAULT_ALIGNMENT))
