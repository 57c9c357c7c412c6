"""Decodes the block types of a GGUF to float32.

The arithmetic is the ``gguf`` package's. It builds several arrays as large as what it is given;
here it is given pieces that stay in the processor's cache, on all cores: memory is bounded by the
result, and a Q4_K tensor is decoded several times faster than in one piece.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from ollama_bridge.machine import cores

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Float32Array = np.ndarray[Any, np.dtype[np.float32]]

_PIECE_VALUES = 1 << 16  # a multiple of every type's block
_MAX_THREADS = 8  # beyond, they wait for the interpreter
_PLAIN_TYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "F64": np.dtype("<f8")}


def decode(data: Bytes, type_name: str) -> tuple[Float32Array, bool]:
    """Decode a tensor's bytes.

    Args:
        data: Whole blocks, (size_bytes,).
        type_name: The encoding, such as ``Q4_K``.

    Returns:
        Its values, flat, and whether all of them are finite.

    Raises:
        NotImplementedError: the type has no decoder.
    """
    block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[type_name]]
    values = np.empty(data.size // block_bytes * block, dtype=np.float32)
    piece_bytes = _PIECE_VALUES // block * block_bytes

    def one(index: int) -> bool:
        piece = data[index * piece_bytes : (index + 1) * piece_bytes]
        target = values[index * _PIECE_VALUES : (index + 1) * _PIECE_VALUES]
        # Damaged scales overflow; the caller is told by the result, not by a warning.
        with np.errstate(all="ignore"):
            target[:] = _decode_piece(piece, type_name)
            return bool(np.isfinite(target).all())

    pieces = range(-(-data.size // piece_bytes))
    with ThreadPoolExecutor(min(cores(), _MAX_THREADS)) as pool:
        return values, all(pool.map(one, pieces))


def _decode_piece(data: Bytes, type_name: str) -> np.ndarray[Any, Any]:
    plain = _PLAIN_TYPES.get(type_name)
    if plain is not None:
        return data.view(plain)
    # As one row: rows are what the package would split it by.
    decoded: Float32Array = dequantize(data.reshape(1, -1), GGMLQuantizationType[type_name])
    return decoded.reshape(-1)
