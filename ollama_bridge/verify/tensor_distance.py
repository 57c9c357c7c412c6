"""How far the values of a tensor lie from those that they should be, and where in it.

One row of an embedding is nothing beside all others, so a share of the whole says little of a fault
that is small. What rounding does to one block of a type is bounded as well: each is held to that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from ollama_bridge.errors import GGUFError

Float32Array = np.ndarray[Any, np.dtype[np.float32]]

# Relative error (of the Euclidean norm) that rounding to a type was seen to stay below, doubled.
_ROUNDING = {"F32": 1e-6, "F16": 2e-3, "BF16": 8e-3, "Q8_0": 0.02, "Q6_K": 0.05, "Q2_K": 0.7}
_COARSE_ROUNDING = 0.4  # types of three to five bits
# The same of any one block. Of Q8_0 it can be sqrt(32) / 254 = 0.0223. Of weights spread in nine
# ways, with outliers and without, Q6_K was seen at 0.05, types of three to five bits at 0.26, Q2_K
# at 0.57; with an importance matrix at several times that, for columns that count little. A block
# that is zero, of another row, or of twice the scale lies at 1 and more.
_BLOCK_ROUNDING = {"F32": 1e-5, "F16": 2e-3, "BF16": 8e-3, "Q8_0": 0.03, "Q6_K": 0.6}
_COARSE_BLOCK_ROUNDING = 0.9
_VALUES = 256  # a block of types that round every value by itself
# Scales are of half precision, which loses blocks that are next to nothing: those are held to the
# error of one that is this share of the usual size.
_SMALL = 0.05
_PIECE = 2**22


@dataclass(frozen=True)
class Distance:
    """Of two tensors of one shape.

    Attributes:
        error: Relative, of the Euclidean norm.
        bound: What rounding to the type does at most.
        rows: Those that hold a block which rounding does not explain.
        block_error: Relative, of the worst such block; 0: there is none.
        block_bound: What rounding does to a block at most.
        row_count: How many rows there are.
    """

    error: float
    bound: float
    rows: tuple[int, ...]
    block_error: float
    block_bound: float
    row_count: int

    @property
    def is_rounding(self) -> bool:
        """Whether rounding to the type explains all of it."""
        return self.error <= self.bound and not self.rows

    def describe(self, type_: str) -> str:
        """What is wrong, in words, and where it is if it is not everywhere."""
        if self.error <= self.bound:
            return (
                f"{self._place()} differs by {self.block_error:.2g} of a block's size "
                f"({type_} rounds by {self.block_bound:.2g})"
            )
        local = 0 < len(self.rows) <= self.row_count // 10
        where = f", all of it in {self._place()}" if local else ""
        return (
            f"differs by {self.error:.2g} of its size ({type_} rounds by {self.bound:.2g}){where}"
        )

    def _place(self) -> str:
        if len(self.rows) == 1:
            return f"row {self.rows[0]}"
        return f"row {self.rows[0]} (and {len(self.rows) - 1} more of {self.row_count})"


def measure(
    found: Float32Array, expected: Float32Array, type_: str, *, whole_rows: bool = False
) -> Distance:
    """Hold a decoded tensor against the values that it was made of.

    Args:
        found: Of any shape.
        expected: Of the same shape.
        type_: Of the blocks that ``found`` was decoded from.
        whole_rows: Hold rows to the bound of a block: an importance matrix sacrifices blocks.

    Raises:
        GGUFError: the shapes differ.
    """
    if found.shape != expected.shape:
        raise GGUFError(f"shapes {found.shape} and {expected.shape} cannot be compared")
    columns = expected.shape[-1]
    block = max(GGML_QUANT_SIZES[GGMLQuantizationType[type_]][0], 1)
    block = _VALUES if block == 1 else block
    if columns % block or (whole_rows and type_ not in _BLOCK_ROUNDING):
        block = columns
    sizes, gaps = _norms(found.reshape(-1, block), expected.reshape(-1, block))
    size, gap = (math.sqrt(float(norms @ norms)) for norms in (sizes, gaps))
    error = (gap / size if size else gap) if math.isfinite(gap) else math.inf
    block_bound = _BLOCK_ROUNDING.get(type_, _COARSE_BLOCK_ROUNDING)
    usual = size / math.sqrt(len(sizes))
    shares = gaps / np.maximum(np.maximum(sizes, _SMALL * usual), np.finfo(np.float64).tiny)
    off = np.flatnonzero(~(shares <= block_bound))  # no number is off, too
    return Distance(
        error=error,
        bound=_ROUNDING.get(type_, _COARSE_ROUNDING),
        rows=tuple(int(row) for row in np.unique(off * block // columns)),
        block_error=float(shares[off].max()) if off.size else 0.0,
        block_bound=block_bound,
        row_count=expected.size // columns,
    )


def _norms(
    found: Float32Array, expected: Float32Array
) -> tuple[np.ndarray[Any, np.dtype[np.float64]], np.ndarray[Any, np.dtype[np.float64]]]:
    """Euclidean norms of the blocks that are expected, and of what the others have otherwise."""
    sizes, gaps = np.empty(len(expected)), np.empty(len(expected))
    step = max(_PIECE // expected.shape[1], 1)  # in float64, but not all of an embedding at once
    for begin in range(0, len(expected), step):
        wanted = expected[begin : begin + step].astype(np.float64)
        off = found[begin : begin + step] - wanted
        sizes[begin : begin + step] = np.sqrt(np.einsum("ij,ij->i", wanted, wanted))
        gaps[begin : begin + step] = np.sqrt(np.einsum("ij,ij->i", off, off))
    return sizes, gaps
