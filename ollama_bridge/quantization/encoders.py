"""Rows of numbers as blocks of a GGUF type: one function, and behind it whoever does it best.

K-quants, and everything that is weighted by importance, are ours: faster than ``libgguf``, no
worse, and the same on every platform. The older types go to ``libgguf`` where its wheel exists
(there is none for ARM Linux) and else to the ``gguf`` package, which give the same bytes. So the
bytes of a file never depend on what is installed.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import quantize

from ollama_bridge.quantization.kquants import K_TYPES, encode_k, encode_weighted

Float32Array = np.ndarray[Any, np.dtype[np.float32]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]

_OLDER_TYPES = (
    GGMLQuantizationType.Q4_0,
    GGMLQuantizationType.Q4_1,
    GGMLQuantizationType.Q5_0,
    GGMLQuantizationType.Q5_1,
)
BLOCK_TYPES = (*_OLDER_TYPES, *K_TYPES)
_LEAST_IMPORTANCE = 1e-4  # of the mean
HAS_LIBGGUF = find_spec("libgguf") is not None


def encode_rows(
    rows: Float32Array, type_: GGMLQuantizationType, importance: Float32Array | None = None
) -> Bytes:
    """Encode rows.

    Args:
        rows: (rows, columns), contiguous; whole blocks a row, values finite and in range.
        type_: One of :data:`BLOCK_TYPES`.
        importance: (columns,) how much an error of a column counts; None: no column is special.

    Returns:
        (rows, bytes of a row).
    """
    if importance is not None:
        # A column that the measured texts never used must not be lost altogether.
        floor = _LEAST_IMPORTANCE * float(importance.mean()) or 1.0
        importance = np.maximum(importance, np.float32(floor))
    # A block of nothing but subnormal numbers overflows on the way, and decodes to zeros.
    with np.errstate(all="ignore"):
        if type_ in K_TYPES:
            return encode_k(rows, type_, importance)
        if importance is not None:
            return encode_weighted(rows, type_, importance)
        if HAS_LIBGGUF:
            import libgguf

            encoded: Bytes = libgguf.quantize_rows(rows, int(type_))
        else:
            encoded = quantize(rows, type_)
    return encoded


def encoded_size(shape: tuple[int, ...], type_: GGMLQuantizationType) -> int:
    """Bytes that a tensor of (rows, ..., columns) takes."""
    block, block_bytes = GGML_QUANT_SIZES[type_]
    return int(np.prod(shape, dtype=np.int64)) // block * block_bytes
