"""The search for the scales of groups: of many candidates the one with the least weighted error.

Every candidate rounds the group, and least squares give the best scale for these integers. The
candidates are those of llama.cpp; what they cost is counted for thousands of groups at once.

Source: ``ggml-quants.c`` of llama.cpp.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Float32Array = np.ndarray[Any, np.dtype[np.float32]]

_TINY = np.float32(1e-15)  # groups without a larger number are all zeros


def candidates(first: float, step: float, count: int) -> tuple[float, ...]:
    """Offsets of the candidates from the number of levels, both ends included."""
    return tuple(first + step * index for index in range(count + 1))


# What is added to the number of levels for a candidate, as llama.cpp tries them.
WEIGHTED_OFFSETS = candidates(-0.9, 0.05, 36)
_SYMMETRIC_OFFSETS = candidates(-0.9, 0.1, 18)
_SHARED_OFFSETS = candidates(-3.0, 0.25, 20)


def fit_affine(
    values: Float32Array, weights: Float32Array, *, levels: int, offsets: tuple[float, ...]
) -> tuple[Float32Array, Float32Array]:
    """Scale and minimum of each group, for numbers 0..levels.

    Args:
        values: (width, groups).
        weights: (width, groups), not negative.
        levels: The largest integer.
        offsets: Of the candidates.

    Returns:
        (groups,) scales and (groups,) what is subtracted; neither is negative.
    """
    low = np.minimum(values.min(axis=0), 0)
    span = values.max(axis=0) - low
    flat = span <= 0
    shifted = values - low
    weighted = weights * values
    sum_w, sum_x = weights.sum(axis=0), weighted.sum(axis=0)
    rounded, product = np.empty_like(values), np.empty_like(values)
    scale, minimum = span / np.float32(levels), low.copy()
    best = np.full_like(span, -np.inf)
    inverse_span = 1 / np.where(flat, 1, span)
    for offset in offsets:
        np.multiply(shifted, np.float32(levels + offset) * inverse_span, out=rounded)
        np.rint(rounded, out=rounded)
        if offset >= 0:
            np.minimum(rounded, levels, out=rounded)
        np.multiply(weights, rounded, out=product)
        sum_l = product.sum(axis=0)
        sum_l2 = np.einsum("ig,ig->g", product, rounded)
        sum_xl = np.einsum("ig,ig->g", weighted, rounded)
        determinant = sum_w * sum_l2 - sum_l * sum_l
        solvable = determinant > 1e-6 * sum_w * sum_l2
        safe = np.where(solvable, determinant, 1)
        slope = (sum_w * sum_xl - sum_x * sum_l) / safe
        start = (sum_l2 * sum_x - sum_l * sum_xl) / safe
        positive = start > 0  # the formats subtract the minimum
        slope = np.where(positive, sum_xl / np.where(sum_l2 > 0, sum_l2, 1), slope)
        start = np.where(positive, 0, start)
        gain = slope * sum_xl + start * sum_x  # the error is a constant minus this
        better = solvable & (gain > best) & (slope > 0)
        best = np.where(better, gain, best)
        scale = np.where(better, slope, scale)
        minimum = np.where(better, start, minimum)
    return np.where(flat, 0, scale), -minimum


def fit_symmetric(values: Float32Array, weights: Float32Array, *, levels: int) -> Float32Array:
    """Scale of each group, for integers from -levels to levels - 1.

    Args:
        values: (width, groups).
        weights: (width, groups), not negative.
        levels: Half of the integers.

    Returns:
        (groups,) scales; negative where the number of the largest size is positive.
    """
    largest = np.take_along_axis(values, np.abs(values).argmax(axis=0)[None], axis=0)[0]
    flat = np.abs(largest) < _TINY
    inverse = -1 / np.where(flat, 1, largest)
    weighted = weights * values
    rounded, product = np.empty_like(values), np.empty_like(values)
    scale = np.zeros_like(largest)
    best = np.full_like(largest, -np.inf)
    for offset in _SYMMETRIC_OFFSETS:
        np.multiply(values, np.float32(levels + offset) * inverse, out=rounded)
        np.rint(rounded, out=rounded)
        np.clip(rounded, -levels, levels - 1, out=rounded)
        sum_xl = np.einsum("ig,ig->g", weighted, rounded)
        np.multiply(rounded, weights, out=product)
        sum_l2 = np.einsum("ig,ig->g", product, rounded)
        best, scale = _better(sum_xl, sum_l2, best, scale)
    return np.where(flat, 0, scale)


def fit_shared(values: Float32Array, weights: Float32Array, *, levels: int) -> Float32Array:
    """(blocks,) factor whose multiples 0..levels come close to (groups, blocks) values >= 0."""
    largest = values.max(axis=0)
    flat = largest < _TINY
    inverse = 1 / np.where(flat, 1, largest)
    weighted = weights * values
    scale = largest / np.float32(levels)
    best = np.full_like(largest, -np.inf)
    for offset in _SHARED_OFFSETS:
        rounded = np.minimum(np.rint(values * (np.float32(levels + offset) * inverse)), levels)
        sum_xl = (weighted * rounded).sum(axis=0)
        sum_l2 = (weights * rounded * rounded).sum(axis=0)
        best, scale = _better(sum_xl, sum_l2, best, scale)
    return np.where(flat, 0, scale)


def _better(
    sum_xl: Float32Array, sum_l2: Float32Array, best: Float32Array, scale: Float32Array
) -> tuple[Float32Array, Float32Array]:
    """The gain and the scale of those integers l that come closer to the values x than before.

    The best scale of given integers is sum(w x l) / sum(w l l), and leaves an error that is less by
    that times sum(w x l).
    """
    slope = sum_xl / np.where(sum_l2 > 0, sum_l2, 1)
    gain = slope * sum_xl
    better = (gain > best) & (sum_l2 > 0)
    return np.where(better, gain, best), np.where(better, slope, scale)
