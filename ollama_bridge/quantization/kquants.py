"""K-quants in plain numpy: Q2_K to Q6_K, and the older block types weighted by importance.

A block of 256 numbers is cut into groups of 16 or 32, each with a scale of a few bits (and a
minimum, where the type has one), which are multiples of one float16 each and are searched
(``scale_search``). Arrays are (numbers of a group, groups), so that every step is one pass of
vector instructions over thousands of groups.

Source: ``ggml-quants.c`` of llama.cpp (the layouts of bits); decoding is the ``gguf`` package's,
which tests hold against this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from ollama_bridge.quantization.scale_search import (
    WEIGHTED_OFFSETS,
    Float32Array,
    candidates,
    fit_affine,
    fit_shared,
    fit_symmetric,
)

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

BLOCK = 256
# Blocks at a time: few enough for the processor's cache, enough to make a step worth its call.
_BLOCKS_AT_ONCE = 1024


def encode_k(
    rows: Float32Array, type_: GGMLQuantizationType, importance: Float32Array | None = None
) -> Bytes:
    """Encode rows as a K-quant.

    Args:
        rows: (rows, columns); columns a multiple of 256, values finite.
        type_: One of :data:`K_TYPES`.
        importance: (columns,) weights of the columns' errors; None: larger numbers count more.

    Returns:
        (rows, bytes of a row).
    """
    count, columns = rows.shape
    per_row = columns // BLOCK
    encode = _ENCODERS[type_]
    out = np.empty((count, per_row * GGML_QUANT_SIZES[type_][1]), dtype=np.uint8)
    step = max(1, _BLOCKS_AT_ONCE // per_row)
    for start in range(0, count, step):
        part = rows[start : start + step]
        weights = None if importance is None else np.tile(importance, len(part))
        blocks = encode(part.reshape(-1), weights)
        out[start : start + step] = blocks.reshape(len(part), -1)
    return out


def encode_weighted(
    rows: Float32Array, type_: GGMLQuantizationType, importance: Float32Array
) -> Bytes:
    """Encode rows as Q4_0, Q4_1, Q5_0 or Q5_1, weighting the columns' errors.

    Args:
        rows: (rows, columns); columns a multiple of 32, values finite.
        type_: One of the four.
        importance: (columns,) weights.

    Returns:
        (rows, bytes of a row).
    """
    count, columns = rows.shape
    bits, affine = _LEGACY[type_]
    out = np.empty((count, columns // 32 * GGML_QUANT_SIZES[type_][1]), dtype=np.uint8)
    step = max(1, _BLOCKS_AT_ONCE * BLOCK // columns)
    for start in range(0, count, step):
        part = rows[start : start + step]
        spread = np.square(part).mean(axis=1, keepdims=True)
        weights = _groups(importance * np.sqrt(spread + np.square(part)), 32)
        blocks = _encode_legacy(_groups(part, 32), weights, bits=bits, affine=affine)
        out[start : start + step] = blocks.reshape(len(part), -1)
    return out


def _multiples(values: Float32Array, factor: Float32Array, low: int, high: int) -> Float32Array:
    """Which multiples of (blocks,) factors come closest to (groups, blocks) values."""
    safe = np.where(factor == 0, 1, factor)
    return np.where(factor == 0, 0, np.clip(np.rint(values / safe), low, high))


def _groups(values: Float32Array, width: int) -> Float32Array:
    """(width, groups) of numbers that lie one after another."""
    return np.ascontiguousarray(values.reshape(-1, width).T)


def _per_group(values: Float32Array) -> Float32Array:
    """(groups of a block, blocks) as one value a group, in the order of groups."""
    return np.ascontiguousarray(values.T).reshape(-1)


def _per_block(values: Float32Array, groups: int) -> Float32Array:
    """(all groups,) as (groups of a block, blocks)."""
    return np.ascontiguousarray(values.reshape(-1, groups).T)


def _half(values: Float32Array) -> tuple[Bytes, Float32Array]:
    """Float16 bytes of (blocks,) values, and the values that a decoder will see."""
    half = values.astype(np.float16)
    return half.view(np.uint8).reshape(-1, 2), half.astype(np.float32)


def _integers(values: Float32Array, scale: Float32Array, low: int, high: int) -> Bytes:
    """(blocks, 256) integers, from 0: (width, groups) values in units of (groups,) scales."""
    safe = np.where(scale == 0, 1, scale)
    rounded = np.rint(values / safe)
    rounded[:, scale == 0] = 0
    np.clip(rounded, low, high, out=rounded)
    rounded -= np.float32(low)
    return np.ascontiguousarray(rounded.astype(np.uint8).T)


@dataclass(frozen=True)
class _Affine:
    """A type with a scale and a minimum for each group.

    Attributes:
        width: Numbers of a group.
        levels: The largest integer.
        shared_levels: The largest multiple of a block's scale, and of its minimum.
        offsets: Of the candidates where no importance is given.
        pack: Makes the block's bytes of (blocks, groups) scales and minima, of the (blocks, 2)
            bytes of both factors and of the (blocks, 256) integers.
    """

    width: int
    levels: int
    shared_levels: int
    offsets: tuple[float, ...]
    pack: Callable[[Bytes, Bytes, Bytes, Bytes, Bytes], Bytes]

    def __call__(self, values: Float32Array, importance: Float32Array | None) -> Bytes:
        per_block = BLOCK // self.width
        numbers = _groups(values, self.width)
        if importance is None:
            weights = np.abs(numbers)
            weights += np.sqrt(np.square(numbers).mean(axis=0))
            offsets = self.offsets
        else:
            weights = _groups(_importance_weights(values, importance), self.width)
            offsets = WEIGHTED_OFFSETS
        scales, minima = fit_affine(numbers, weights, levels=self.levels, offsets=offsets)
        sums = _per_block(weights.sum(axis=0), per_block)
        packed = []
        seen = []
        for part in (_per_block(scales, per_block), _per_block(minima, per_block)):
            factor_bytes, factor = _half(fit_shared(part, sums, levels=self.shared_levels))
            multiples = _multiples(part, factor, 0, self.shared_levels)
            packed.append((factor_bytes, multiples.astype(np.uint8).T))
            seen.append(_per_group(multiples * factor))
        integers = _integers(numbers + seen[1], seen[0], 0, self.levels).reshape(-1, BLOCK)
        (d, scale_multiples), (dmin, minimum_multiples) = packed
        return self.pack(scale_multiples, minimum_multiples, d, dmin, integers)


@dataclass(frozen=True)
class _Symmetric:
    """A type with a signed scale for each group of 16.

    Attributes:
        levels: Half of the integers.
        shared_levels: Half of the multiples of a block's scale.
        plain_importance: Weights are the importance alone, whatever the numbers are.
        pack: Makes the block's bytes of (blocks, groups) multiples, of the (blocks, 2) bytes of
            the factor and of the (blocks, 256) integers, which begin at 0.
    """

    levels: int
    shared_levels: int
    plain_importance: bool
    pack: Callable[[Float32Array, Bytes, Bytes], Bytes]

    def __call__(self, values: Float32Array, importance: Float32Array | None) -> Bytes:
        numbers = _groups(values, 16)
        if importance is None:
            squares = np.square(numbers)
            weights = squares + squares.mean(axis=0)
        elif self.plain_importance:
            weights = _groups(importance, 16)
        else:
            weights = _groups(_importance_weights(values, importance), 16)
        scales = _per_block(fit_symmetric(numbers, weights, levels=self.levels), 16)
        sums = _per_block(weights.sum(axis=0), 16)
        d, factor = _half(fit_symmetric(scales, sums, levels=self.shared_levels))
        multiples = _multiples(scales, factor, -self.shared_levels, self.shared_levels - 1)
        seen = _per_group(multiples * factor)
        integers = _integers(numbers, seen, -self.levels, self.levels - 1).reshape(-1, BLOCK)
        return self.pack(np.ascontiguousarray(multiples.T), d, integers)


def _importance_weights(values: Float32Array, importance: Float32Array) -> Float32Array:
    blocks = values.reshape(-1, BLOCK)
    spread = 2 * np.square(blocks).mean(axis=1, keepdims=True)
    weights: Float32Array = importance * np.sqrt(spread + np.square(blocks)).reshape(-1)
    return weights


def _encode_legacy(
    numbers: Float32Array, weights: Float32Array, *, bits: int, affine: bool
) -> Bytes:
    levels = 1 << bits
    if affine:
        scales, minima = fit_affine(numbers, weights, levels=levels - 1, offsets=WEIGHTED_OFFSETS)
        d, scale = _half(scales)
        m, start = _half(-minima)
        integers = _integers(numbers - start, scale, 0, levels - 1)
        head = [d, m]
    else:
        d, scale = _half(fit_symmetric(numbers, weights, levels=levels // 2))
        integers = _integers(numbers, scale, -levels // 2, levels // 2 - 1)
        head = [d]
    if bits == 5:
        head.append(np.packbits(integers >> 4, axis=1, bitorder="little"))
    low = integers & 15
    return np.concatenate([*head, low[:, :16] | (low[:, 16:] << 4)], axis=1)


def _pack_bits(integers: np.ndarray[Any, np.dtype[Any]], bits: int) -> Bytes:
    """Put the i-th 32 numbers of every 32 * 8 / bits beside the first, in the next higher bits."""
    together = 8 // bits
    parts = integers.reshape(len(integers), -1, together, 32)
    packed: Bytes = parts[:, :, 0].copy()
    for index in range(1, together):
        packed |= parts[:, :, index] << (bits * index)
    return packed.reshape(len(integers), -1)


def _pack_six_bits(scales: Bytes, minima: Bytes) -> Bytes:
    """Eight scales and eight minima of six bits in 12 bytes."""
    first = scales[:, :4] | (scales[:, 4:] >> 4 << 6)
    second = minima[:, :4] | (minima[:, 4:] >> 4 << 6)
    third = (scales[:, 4:] & 15) | ((minima[:, 4:] & 15) << 4)
    return np.concatenate([first, second, third], axis=1)


def _pack_q2(scales: Bytes, minima: Bytes, d: Bytes, dmin: Bytes, integers: Bytes) -> Bytes:
    return np.concatenate([scales | (minima << 4), _pack_bits(integers, 2), d, dmin], axis=1)


def _pack_q4(scales: Bytes, minima: Bytes, d: Bytes, dmin: Bytes, integers: Bytes) -> Bytes:
    return np.concatenate(
        [d, dmin, _pack_six_bits(scales, minima), _pack_bits(integers, 4)], axis=1
    )


def _pack_q5(scales: Bytes, minima: Bytes, d: Bytes, dmin: Bytes, integers: Bytes) -> Bytes:
    high = _pack_bits(integers >> 4, 1)
    low = _pack_bits(integers & 15, 4)
    return np.concatenate([d, dmin, _pack_six_bits(scales, minima), high, low], axis=1)


def _pack_q3(multiples: Float32Array, d: Bytes, integers: Bytes) -> Bytes:
    high = _pack_bits(integers >> 2, 1)
    low = _pack_bits(integers & 3, 2)
    scales = (multiples + 32).astype(np.uint8)
    nibbles = (scales[:, :8] & 15) | ((scales[:, 8:] & 15) << 4)
    upper = (scales >> 4).reshape(-1, 4, 4)
    rest = upper[:, 0] | (upper[:, 1] << 2) | (upper[:, 2] << 4) | (upper[:, 3] << 6)
    return np.concatenate([high, low, nibbles, rest, d], axis=1)


def _pack_q6(multiples: Float32Array, d: Bytes, integers: Bytes) -> Bytes:
    halves = integers.reshape(-1, 2, 4, 32)
    low = halves & 15
    nibbles = (low[:, :, :2] | (low[:, :, 2:] << 4)).reshape(-1, 128)
    high = _pack_bits(integers >> 4, 2)
    scales = multiples.astype(np.int8).view(np.uint8)
    return np.concatenate([nibbles, high, scales, d], axis=1)


_ENCODERS: dict[GGMLQuantizationType, Callable[[Float32Array, Float32Array | None], Bytes]] = {
    GGMLQuantizationType.Q2_K: _Affine(16, 3, 15, candidates(-0.5, 0.1, 15), _pack_q2),
    GGMLQuantizationType.Q3_K: _Symmetric(4, 32, plain_importance=False, pack=_pack_q3),
    GGMLQuantizationType.Q4_K: _Affine(32, 15, 63, candidates(-1.0, 0.1, 20), _pack_q4),
    GGMLQuantizationType.Q5_K: _Affine(32, 31, 63, candidates(-0.5, 0.1, 15), _pack_q5),
    GGMLQuantizationType.Q6_K: _Symmetric(32, 128, plain_importance=True, pack=_pack_q6),
}
K_TYPES = tuple(_ENCODERS)
_LEGACY = {
    GGMLQuantizationType.Q4_0: (4, False),
    GGMLQuantizationType.Q4_1: (4, True),
    GGMLQuantizationType.Q5_0: (5, False),
    GGMLQuantizationType.Q5_1: (5, True),
}
