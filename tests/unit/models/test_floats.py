"""Float types of weights in numpy: as torch has them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ollama_bridge.models.weights.floats import (
    BF16,
    F16,
    F32,
    F64,
    largest,
    to_bfloat16,
    to_float32,
)


def float32_of_every_kind() -> np.ndarray:
    """Random bits: numbers of all sizes, infinities and NaN, and halves between two bfloat16."""
    bits = np.random.default_rng(0).integers(0, 1 << 32, 1 << 16, dtype=np.uint32)
    bits[::7] = (bits[::7] & 0xFFFF0000) | 0x8000
    bits[:4] = (0x7F800000, 0xFF800000, 0x7FFFFFFF, 0xFFFFFFFF)
    return bits.view(np.float32)


def test_every_bfloat16_is_the_number_that_torch_reads() -> None:
    """All 65,536, NaN included."""
    bits = np.arange(1 << 16, dtype=BF16)
    expected = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).float().numpy()
    assert np.array_equal(to_float32(bits).view(np.uint32), expected.view(np.uint32))


def test_bfloat16_is_rounded_as_torch_rounds() -> None:
    """Halves go to even, what is too large to infinity, and NaN stays one."""
    values = float32_of_every_kind()
    expected = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    assert np.array_equal(to_float32(to_bfloat16(values)), expected, equal_nan=True)


@pytest.mark.parametrize("dtype", [F64, F32, F16, BF16], ids=str)
@pytest.mark.parametrize("value", [-3.0, math.inf, math.nan])
def test_the_largest_is_found_in_every_type(dtype: np.dtype, value: float) -> None:
    """By its size; an infinity and a NaN are larger than any number."""
    values = np.linspace(-2, 2, 99).reshape(9, 11)
    values[4, 5] = value
    source = to_bfloat16(values) if dtype == BF16 else values.astype(dtype)
    assert np.array_equal(largest(source), abs(value), equal_nan=True)
    assert largest(source[:0]) == 0
