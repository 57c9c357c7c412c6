"""Numbers of weights as numpy arrays, without torch: importing that takes longer than a conversion.

numpy has no bfloat16: it is held as its bits, in uint16, which is no type of a weight otherwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Float32Array = np.ndarray[Any, np.dtype[np.float32]]

F64, F32, F16 = np.dtype("<f8"), np.dtype("<f4"), np.dtype("<f2")
BF16 = np.dtype("<u2")  # the upper half of a float32
_BITS: dict[int, np.dtype[Any]] = {2: np.dtype("<u2"), 4: np.dtype("<u4"), 8: np.dtype("<u8")}


def to_float32(values: Array) -> Float32Array:
    """Values of any float type as float32; no copy, if they are that."""
    if values.dtype == BF16:
        wide = values.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    with np.errstate(over="ignore"):  # what looks at the result finds the infinity
        return values.astype(np.float32, copy=False)


def to_bfloat16(values: Array) -> Array:
    """Values of any float type as bfloat16, rounded to even; NaN stays NaN."""
    if values.dtype == BF16:
        return values
    floats = np.ascontiguousarray(to_float32(values))
    bits = floats.view(np.uint32)
    odd = (bits >> 16) & 1
    rounded = ((bits + odd + np.uint32(0x7FFF)) >> 16).astype(np.uint16)
    lost = np.isnan(floats)
    if lost.any():  # rounding may carry its bits into the sign
        rounded[lost] = 0x7FC0
    return rounded


def largest(values: Array) -> float:
    """The largest absolute value; infinite or NaN if one is.

    Without their sign the bits of floats are in the order of their sizes, NaN above infinity: one
    pass over integers, for any float type.
    """
    if not values.size:
        return 0.0
    bits = _BITS[values.dtype.itemsize]
    sizes = values.view(bits) & bits.type((1 << (8 * bits.itemsize - 1)) - 1)
    top = np.asarray(sizes.max()).reshape(1)
    return float(to_float32(top)[0] if values.dtype == BF16 else top.view(values.dtype)[0])
