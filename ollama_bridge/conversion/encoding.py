"""The numbers of a tensor as the bytes of a GGUF type.

What is one pass over memory (F32, F16, BF16, Q8_0) is done here, in pieces that fit the
processor's cache; block types that take a search are handed on as rows, for ``quantization`` to
encode. Which type a tensor gets is not decided here.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial

import numpy as np
from gguf.constants import GGMLQuantizationType

from ollama_bridge.errors import ConversionError
from ollama_bridge.models.floats import BF16, F16, Array, largest, to_bfloat16, to_float32
from ollama_bridge.quantization.encoders import BLOCK_TYPES, Bytes, Float32Array
from ollama_bridge.quantization.workers import Piece, Rows

PIECE_VALUES = 1 << 18  # to be searched; a megabyte in float32
# Without a search. Smaller ones cost calls, larger ones leave the processor's cache and the memory
# that an allocator keeps.
_PLAIN_VALUES = 1 << 17
_F16_MAX = float(np.finfo(np.float16).max)
# What a block reaches whose scale (and minimum) is a float16.
_LIMITS = {
    GGMLQuantizationType.F16: _F16_MAX,
    GGMLQuantizationType.Q8_0: 127 * _F16_MAX,
    GGMLQuantizationType.Q5_0: 16 * _F16_MAX,
    GGMLQuantizationType.Q4_0: 8 * _F16_MAX,
    **dict.fromkeys((GGMLQuantizationType.Q5_1, GGMLQuantizationType.Q4_1), _F16_MAX),
    GGMLQuantizationType.Q6_K: 32 * 128 * _F16_MAX,
    GGMLQuantizationType.Q5_K: 31 * _F16_MAX,
    GGMLQuantizationType.Q4_K: 15 * _F16_MAX,
    GGMLQuantizationType.Q3_K: 4 * 32 * _F16_MAX,
    GGMLQuantizationType.Q2_K: 3 * _F16_MAX,
}
_Q8_BLOCK = 32
# Blocks without a larger number are zeros: the inverse of their scale would overflow.
_NEGLIGIBLE = 1e-30


def pieces(
    name: str,
    values: Array,
    type_: GGMLQuantizationType,
    importance: Float32Array | None = None,
) -> Iterator[Piece]:
    """Cut a tensor into pieces of whole rows, to be encoded one by one.

    Args:
        name: For messages.
        values: Rows first, of any type of ``models.floats``.
        type_: What its rows divide into.
        importance: (columns,) of the tensor's errors, for block types; None: none is known.

    Raises:
        ConversionError: here or when a piece is encoded: a value is not finite, or too large for
            the type.
    """
    rows = values.reshape(-1, values.shape[-1])
    step = max(1, (PIECE_VALUES if type_ in BLOCK_TYPES else _PLAIN_VALUES) // rows.shape[1])
    for start in range(0, rows.shape[0], step):
        part = rows[start : start + step]
        if type_ in BLOCK_TYPES:
            _check(name, part, type_)
            shape = (part.shape[0], part.shape[1])
            yield Rows(shape, type_, importance, partial(_fill, part))
        else:
            yield partial(_encode, name, part, type_)


def _fill(part: Array, out: Float32Array) -> None:
    if part.dtype == BF16:
        bits = out.view(np.uint32)
        bits[...] = part
        bits <<= 16
    else:
        out[...] = part


def _encode(name: str, part: Array, type_: GGMLQuantizationType) -> Bytes:
    _check(name, part, type_)
    if type_ == GGMLQuantizationType.Q8_0:
        return _q8_0(to_float32(part))
    if type_ == GGMLQuantizationType.BF16:
        plain = to_bfloat16(part)
    elif type_ == GGMLQuantizationType.F32:
        plain = to_float32(part)
    elif part.dtype == BF16:
        plain = _f16_of_bf16().take(part)
    else:
        plain = part.astype(F16, copy=False)
    return np.ascontiguousarray(plain).view(np.uint8)


@cache
def _f16_of_bf16() -> Array:
    """(65536,) the float16 of each bfloat16: numpy looks up faster than it converts."""
    with np.errstate(over="ignore"):
        return to_float32(np.arange(1 << 16, dtype=BF16)).astype(F16)


def _check(name: str, values: Array, type_: GGMLQuantizationType) -> None:
    size = largest(values)
    if not np.isfinite(size):
        raise ConversionError(
            f"tensor {name!r} holds values that are not finite",
            hint="training diverged: lower the learning rate and train again",
        )
    limit = _LIMITS.get(type_)
    if limit is not None and size > limit:
        raise ConversionError(
            f"tensor {name!r} holds {size:g}, {type_.name} reaches {limit:g}",
            hint="convert with --type bf16 or --type f32",
        )


def _q8_0(rows: Float32Array) -> Bytes:
    """(rows, bytes) of blocks: a float16 scale, and 32 integers rounded half away from zero.

    Source: ``quantize_row_q8_0_ref`` in ``ggml-quants.c`` of llama.cpp.
    """
    blocks = rows.reshape(-1, _Q8_BLOCK)
    # Transposed, the maximum of many blocks is taken at once.
    size = np.ascontiguousarray(np.abs(blocks).T).max(axis=0)[:, None]
    scale = size / np.float32(127)
    inverse = np.zeros_like(scale)
    np.divide(np.float32(1), scale, out=inverse, where=size >= _NEGLIGIBLE)
    rest = blocks * inverse
    whole = np.trunc(rest)
    # numpy rounds halves to even; the difference to the integer part is exact.
    rest -= whole
    rest += rest
    whole += np.trunc(rest, out=rest)
    out = np.empty((blocks.shape[0], 2 + _Q8_BLOCK), dtype=np.uint8)
    out[:, :2] = scale.astype(F16).view(np.uint8)
    out[:, 2:] = whole.astype(np.int8).view(np.uint8)
    return out.reshape(rows.shape[0], -1)
