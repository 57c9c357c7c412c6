"""Encoding of single tensors."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from ollama_bridge.conversion.encoding import _LIMITS, PIECE_VALUES, pieces
from ollama_bridge.errors import ConversionError
from ollama_bridge.models.weights.floats import BF16, F16, F64, to_bfloat16, to_float32
from ollama_bridge.quantization.encoders import BLOCK_TYPES, encoded_size
from ollama_bridge.quantization.workers import Rows, encode_here

Q = GGMLQuantizationType
PLAIN = (Q.F32, Q.F16, Q.BF16, Q.Q8_0)
MATRICES = st_numpy.arrays(
    np.float32, (3, 64), elements=st.floats(-1000, 1000, width=32, allow_subnormal=False)
)


def encode(values: np.ndarray, type_: Q) -> np.ndarray:
    """All pieces of a tensor, together."""
    found = [np.array(piece).reshape(-1) for piece in encode_here(pieces("t", values, type_))]
    return np.concatenate(found)


@given(MATRICES)
@settings(deadline=None)  # the first example loads tables
def test_q8_0_errs_by_half_a_step_at_most(values: np.ndarray) -> None:
    """Each value of a Q8_0 block is within half a step (largest / 127) and float16's rounding."""
    back = dequantize(encode(values, Q.Q8_0), Q.Q8_0).reshape(-1, 32)
    blocks = values.reshape(-1, 32)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    # A scale is a float16: 2**-11 of it, or half the smallest subnormal, a step of 127.
    bound = largest / 254 + largest * 2**-11 + 127 * 2.0**-25 + 1e-6
    assert (np.abs(back - blocks) <= bound).all()


@given(MATRICES, st.sampled_from(PLAIN))
@settings(deadline=None)
def test_plain_types_are_the_gguf_packages_byte_for_byte(values: np.ndarray, type_: Q) -> None:
    """One pass gives what the gguf package's encoder does, halves included."""
    expected = quantize(np.where(np.abs(values) < 1e-30, np.float32(0), values), type_)
    found = encode(np.where(np.abs(values) < 1e-30, np.float32(0), values), type_)
    assert bytes(found) == expected.tobytes()


@pytest.mark.parametrize("type_", PLAIN, ids=lambda type_: type_.name)
@pytest.mark.parametrize("dtype", [F16, BF16, F64], ids=str)
def test_any_float_type_can_be_the_source(type_: Q, dtype: np.dtype) -> None:
    """Halves and doubles are encoded as if they had been float32 before."""
    values = np.random.default_rng(0).normal(size=(4, 64))
    source = to_bfloat16(values) if dtype == BF16 else values.astype(dtype)
    assert np.array_equal(encode(source, type_), encode(to_float32(source), type_))


def test_every_bfloat16_has_its_float16() -> None:
    """Normal numbers, subnormal ones and zeros of both signs; rounded as numpy does."""
    every = np.arange(1 << 16, dtype=BF16)
    source = every[(every & 0x7FFF) < 0x4780].reshape(-1, 32)  # below 65536
    assert encode(source, Q.F16).tobytes() == to_float32(source).astype(F16).tobytes()


def test_halves_and_their_neighbours_are_rounded_away_from_zero() -> None:
    """As C's roundf: a half is rounded up in size, the number below it down."""
    halves = (np.arange(-126, 127) / 2).astype(np.float32)
    below, above = np.nextafter(halves, np.float32(0)), np.nextafter(halves, 2 * halves)
    values = np.concatenate([halves, below, above])
    rows = np.full((len(values), 32), 127, dtype=np.float32)  # so the scale of each block is 1
    rows[:, 1] = values
    expected = np.sign(values) * np.floor(np.abs(values.astype(np.float64)) + 0.5)
    assert np.array_equal(dequantize(encode(rows, Q.Q8_0), Q.Q8_0).reshape(-1, 32)[:, 1], expected)


@pytest.mark.parametrize("type_", [*PLAIN, *BLOCK_TYPES], ids=lambda type_: type_.name)
def test_sizes_are_known_before_encoding(type_: Q) -> None:
    """The table of tensors can be written first: sizes are those of the encoded data."""
    values = np.ones((4, 512), dtype=np.float32)
    assert encode(values, type_).nbytes == encoded_size(values.shape, type_)


def test_large_tensors_are_cut_into_rows() -> None:
    """No piece is larger than it should be, and together they are the whole."""
    values = np.zeros((3, PIECE_VALUES // 2), dtype=np.float32)
    shapes = [piece.shape for piece in pieces("t", values, Q.Q4_K) if isinstance(piece, Rows)]
    assert shapes == [(2, PIECE_VALUES // 2), (1, PIECE_VALUES // 2)]
    plain = [piece.nbytes for piece in encode_here(pieces("t", values, Q.F32))]
    assert plain == [values[:2].nbytes, values[2:].nbytes]


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (Q.F16, 1e5),
        (Q.F32, np.nan),
        (Q.Q8_0, np.inf),
        (Q.Q8_0, 1e7),
        (Q.Q4_K, np.nan),
        (Q.Q4_K, 1e6),
        (Q.Q6_K, -np.inf),
        (Q.Q4_1, 1e5),
    ],
)
def test_values_that_do_not_fit_are_an_error(type_: Q, value: float) -> None:
    """Too large for the type, or not finite, is an error naming the tensor."""
    values = np.zeros((1, 256), dtype=np.float32)
    values[0, 3] = value
    with pytest.raises(ConversionError, match="the_tensor"):
        list(encode_here(pieces("the_tensor", values, type_)))


@pytest.mark.parametrize("type_", [Q.F16, Q.Q8_0, *BLOCK_TYPES], ids=lambda type_: type_.name)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("importance", [None, np.ones(256, np.float32)], ids=["plain", "weighted"])
def test_what_a_type_reaches_comes_back(type_: Q, sign: int, importance: np.ndarray | None) -> None:
    """Up to there it is encoded, beyond it is refused: never would a scale be infinite."""
    values = np.zeros((1, 256), dtype=np.float32)
    values[0, 3] = sign * _LIMITS[type_] * 0.999
    (piece,) = encode_here(pieces("t", values, type_, importance))
    back = dequantize(np.array(piece), type_).reshape(-1)
    np.testing.assert_allclose(back[3], values[0, 3], rtol=0.05)
    values *= np.float32(1.01)
    with pytest.raises(ConversionError, match="reaches"):
        list(encode_here(pieces("t", values, type_, importance)))
