"""Encoding of single tensors."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from ollama_bridge.conversion.encoding import (
    FILE_TYPES,
    encode,
    encoded_size,
    encoding_of,
    file_type,
)
from ollama_bridge.errors import ConversionError

MATRICES = st_numpy.arrays(
    np.float32, (3, 64), elements=st.floats(-1000, 1000, width=32, allow_subnormal=False)
)


@given(MATRICES)
@settings(deadline=None)  # the first example loads tables
def test_q8_0_errs_by_half_a_step_at_most(values: np.ndarray) -> None:
    """Each value of a Q8_0 block is within half a step (largest / 127) and float16's rounding."""
    encoded = encode("t", values, GGMLQuantizationType.Q8_0)
    back = dequantize(encoded, GGMLQuantizationType.Q8_0).reshape(-1, 32)
    blocks = values.reshape(-1, 32)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    # A scale is a float16: 2**-11 of it, or half the smallest subnormal, a step of 127.
    bound = largest / 254 + largest * 2**-11 + 127 * 2.0**-25 + 1e-6
    assert (np.abs(back - blocks) <= bound).all()


@given(MATRICES)
@settings(deadline=None)  # the first example loads tables
def test_plain_types_round_to_nearest(values: np.ndarray) -> None:
    """F32 is exact, F16 numpy's rounding, BF16 within 2**-8 of the value."""
    assert np.array_equal(encode("t", values, GGMLQuantizationType.F32), values)
    half = encode("t", values, GGMLQuantizationType.F16)
    assert np.array_equal(half, values.astype(np.float16))
    brain = dequantize(encode("t", values, GGMLQuantizationType.BF16), GGMLQuantizationType.BF16)
    assert (np.abs(brain - values) <= np.abs(values) * 2**-8).all()


@pytest.mark.parametrize("name", FILE_TYPES)
def test_sizes_are_known_before_encoding(name: str) -> None:
    """The table of tensors can be written first: sizes are those of the encoded data."""
    values = np.ones((4, 96), dtype=np.float32)
    type_ = FILE_TYPES[name].matrices
    assert encode("t", values, type_).nbytes == encoded_size(values.shape, type_)


def test_vectors_norms_and_odd_rows_have_their_own_types() -> None:
    """Vectors and norms are F32; rows that are no whole blocks are F16; the rest is as asked."""
    q8 = file_type("Q8_0")
    assert encoding_of("blk.0.attn_norm.weight", (64,), q8) == GGMLQuantizationType.F32
    assert encoding_of("blk.0.attn_q.bias", (64,), q8) == GGMLQuantizationType.F32
    assert encoding_of("blk.0.attn_q.weight", (64, 48), q8) == GGMLQuantizationType.F16
    assert encoding_of("blk.0.attn_q.weight", (48, 64), q8) == GGMLQuantizationType.Q8_0


@pytest.mark.parametrize(("name", "value"), [("f16", 1e5), ("f32", np.nan), ("q8_0", np.inf)])
def test_values_that_do_not_fit_are_an_error(name: str, value: float) -> None:
    """Too large for the type, or not finite, is an error naming the tensor."""
    values = np.zeros((1, 32), dtype=np.float32)
    values[0, 3] = value
    with pytest.raises(ConversionError, match="the_tensor"):
        encode("the_tensor", values, FILE_TYPES[name].matrices)


def test_an_unknown_type_is_refused_with_those_that_exist() -> None:
    """A K-quant, which is not written yet, is an error that lists what is."""
    with pytest.raises(ConversionError, match="q4_k_m") as caught:
        file_type("q4_k_m")
    assert "q8_0" in str(caught.value.hint)
