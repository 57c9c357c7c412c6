"""The numbers of a tensor as the bytes of a GGUF type.

What is one pass over memory (F32, F16, BF16, Q8_0) is done here, in pieces that fit the
processor's cache; block types that take a search are handed on as rows, for ``quantization`` to
encode. Which type a tensor gets is not decided here.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from gguf.constants import GGMLQuantizationType

from ollama_bridge.errors import ConversionError
from ollama_bridge.machine import cores
from ollama_bridge.models.weights.floats import (
    BF16,
    F16,
    F32,
    Array,
    largest,
    to_bfloat16,
    to_float32,
)
from ollama_bridge.quantization.encoders import BLOCK_TYPES, Bytes, Float32Array
from ollama_bridge.quantization.workers import EncoderPool, Piece, Rows, encode_here

Encode = Callable[[Iterable[Piece]], Iterator[Bytes]]

# A megabyte in float32: smaller ones cost calls, larger ones leave the processor's cache.
PIECE_VALUES = 1 << 18
# Numbers below which processes would take longer to start than to help.
_WORTH_PROCESSES = 1 << 23
_F16_MAX = float(np.finfo(np.float16).max)
# What a block reaches whose scale (and minimum) is a float16. A search may give the largest number
# one integer less than there is.
_LIMITS = {
    GGMLQuantizationType.F16: _F16_MAX,
    GGMLQuantizationType.Q8_0: 127 * _F16_MAX,
    GGMLQuantizationType.Q5_0: 15 * _F16_MAX,
    GGMLQuantizationType.Q4_0: 7 * _F16_MAX,
    **dict.fromkeys((GGMLQuantizationType.Q5_1, GGMLQuantizationType.Q4_1), _F16_MAX),
    GGMLQuantizationType.Q6_K: 31 * 127 * _F16_MAX,
    GGMLQuantizationType.Q5_K: 31 * _F16_MAX,
    GGMLQuantizationType.Q4_K: 15 * _F16_MAX,
    GGMLQuantizationType.Q3_K: 3 * 31 * _F16_MAX,
    GGMLQuantizationType.Q2_K: 3 * _F16_MAX,
}
_Q8_BLOCK = 32
# Blocks without a larger number are zeros: the inverse of their scale would overflow.
_NEGLIGIBLE = 1e-30
_BELOW_HALF = np.nextafter(np.float32(0.5), np.float32(0)).view(np.uint32)
# Of a bfloat16's bits without the sign: the exponents of both types begin that far apart, and from
# the other on float16 has normal numbers.
_F16_BIAS, _F16_NORMAL = np.uint16(112 << 7), np.uint16(113 << 7)


class _Scratch(threading.local):
    """Memory for what is in between, which a thread uses again for its next piece.

    An allocator gives so large a block back to the system, and to have its pages made anew takes
    longer than what is done in it.
    """

    def __init__(self) -> None:
        self._blocks: dict[str, Bytes] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """One without content; what was in it under that name before is lost."""
        size_bytes = math.prod(shape) * dtype.itemsize
        block = self._blocks.get(name)
        if block is None or block.size < size_bytes:
            block = self._blocks[name] = np.empty(size_bytes, np.uint8)
        return block[:size_bytes].view(dtype).reshape(shape)


_scratch = _Scratch()


def pieces(
    name: str,
    values: Array,
    type_: GGMLQuantizationType,
    importance: Float32Array | None = None,
) -> Iterator[Piece]:
    """Cut a tensor into pieces of whole rows, to be encoded one by one.

    Args:
        name: For messages.
        values: Rows first, of any type of ``models.weights.floats``.
        type_: What its rows divide into.
        importance: (columns,) of the tensor's errors, for block types; None: none is known.

    Raises:
        ConversionError: here or when a piece is encoded: a value is not finite, or too large for
            the type.
    """
    rows = values.reshape(-1, values.shape[-1])
    step = max(1, PIECE_VALUES // rows.shape[1])
    for start in range(0, rows.shape[0], step):
        part = rows[start : start + step]
        if type_ in BLOCK_TYPES:
            _check(name, largest(part), type_)
            shape = (part.shape[0], part.shape[1])
            yield Rows(shape, type_, importance, partial(_fill, part))
        else:
            yield partial(_encode, name, part, type_)


@contextlib.contextmanager
def searching_encoder(
    shapes: Sequence[tuple[int, ...]], processes: int | None = None
) -> Iterator[Encode]:
    """What encodes pieces of block types; processes of None: as many as the work is worth."""
    if processes is None:
        processes = cores() if sum(map(math.prod, shapes)) >= _WORTH_PROCESSES else 0
    if not processes:
        yield encode_here
        return
    columns = max(shape[-1] for shape in shapes)
    with EncoderPool(processes, max_values=max(PIECE_VALUES, columns), max_columns=columns) as pool:
        yield pool.encode


def _fill(part: Array, out: Float32Array) -> None:
    if part.dtype == BF16:
        bits = out.view(np.uint32)
        bits[...] = part
        bits <<= 16
    else:
        out[...] = part


def _encode(name: str, part: Array, type_: GGMLQuantizationType) -> Bytes:
    if type_ == GGMLQuantizationType.Q8_0:
        sizes = _sizes_of_blocks(part)
        _check(name, float(sizes.max()), type_)
        floats = _scratch.array("floats", part.shape, F32)
        _fill(part, floats)
        return _q8_0(floats, sizes)
    _check(name, largest(part), type_)
    if type_ == GGMLQuantizationType.BF16:
        plain = to_bfloat16(part)
    elif type_ == GGMLQuantizationType.F32:
        plain = to_float32(part)
    elif part.dtype == BF16:
        plain = _f16_of(part)
    else:
        plain = part.astype(F16, copy=False)
    return np.ascontiguousarray(plain).view(np.uint8)


def _f16_of(values: Array) -> Array:
    """Bfloat16 as float16; what is finite is in its range.

    The normal numbers of float16 have room for all bits of a bfloat16, so those only move; the few
    that are smaller are looked up. numpy's own conversion takes longer than either.
    """
    signs = _scratch.array("signs", values.shape, BF16)
    np.bitwise_and(values, np.uint16(0x8000), out=signs)
    bits: Array = values ^ signs
    small = np.flatnonzero(bits < _F16_NORMAL)
    bits -= _F16_BIAS
    bits <<= np.uint16(3)
    bits |= signs
    bits.flat[small] = _f16_of_bf16().take(values.reshape(-1)[small])
    return bits


@cache
def _f16_of_bf16() -> Array:
    """(65536,) the bits of the float16 of each bfloat16."""
    with np.errstate(over="ignore"):
        return to_float32(np.arange(1 << 16, dtype=BF16)).astype(F16).view(np.uint16)


def _check(name: str, size: float, type_: GGMLQuantizationType) -> None:
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


def _sizes_of_blocks(values: Array) -> Float32Array:
    """(blocks,) the largest absolute value of each block; infinite or NaN if one is.

    By bits, as in :func:`~ollama_bridge.models.weights.floats.largest`. Turned over, many blocks
    are compared at once; 64-bit words, of several numbers, are turned faster than numbers.
    """
    bits = np.dtype(f"<u{values.dtype.itemsize}")
    sizes = _scratch.array("sizes", values.shape, bits)
    unsigned = bits.type((1 << (8 * bits.itemsize - 1)) - 1)
    np.bitwise_and(np.ascontiguousarray(values).view(bits), unsigned, out=sizes)
    words = sizes.reshape(-1, _Q8_BLOCK).view(np.uint64)
    turned = _scratch.array("turned", words.T.shape, words.dtype)
    turned[...] = words.T
    places = turned.view(bits).reshape(words.shape[1], -1).max(axis=0)
    tops = np.ascontiguousarray(places.reshape(len(words), -1).T).max(axis=0)
    return to_float32(tops.view(values.dtype))


def _q8_0(rows: Float32Array, sizes: Float32Array) -> Bytes:
    """(rows, bytes) of blocks: a float16 scale, and 32 integers rounded half away from zero.

    The numbers of ``rows`` are lost.

    Source: ``quantize_row_q8_0_ref`` in ``ggml-quants.c`` of llama.cpp.
    """
    scale = sizes / np.float32(127)
    inverse = np.zeros_like(scale)
    np.divide(np.float32(1), scale, out=inverse, where=sizes >= _NEGLIGIBLE)
    scaled = rows.reshape(-1, _Q8_BLOCK)
    scaled *= inverse[:, None]
    # numpy rounds halves to even. With the largest number below a half added, away from zero, the
    # sum rounds to the next integer from the half on, and cutting it off is what is asked.
    halves = _scratch.array("halves", scaled.shape, np.dtype(np.uint32))
    np.bitwise_and(scaled.view(np.uint32), np.uint32(1 << 31), out=halves)
    halves |= _BELOW_HALF
    scaled += halves.view(np.float32)
    blocks = np.empty(len(scale), dtype=[("scale", F16), ("values", np.int8, _Q8_BLOCK)])
    blocks["scale"] = scale
    np.copyto(blocks["values"], scaled, casting="unsafe")
    return blocks.view(np.uint8).reshape(rows.shape[0], -1)
