"""Block types: our encoders against llama.cpp's blocks, decoded by the ``gguf`` package."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.blocks import GoldenBlocks, read_blocks
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from ollama_bridge.quantization import encoders
from ollama_bridge.quantization.encoders import BLOCK_TYPES, encode_rows, encoded_size
from ollama_bridge.quantization.kquants import K_TYPES

Q = GGMLQuantizationType
OLDER = [type_ for type_ in BLOCK_TYPES if type_ not in K_TYPES]
# Half of a step, with room for scales of a few bits: a fraction of the block's range.
REACH = {
    Q.Q2_K: 1 / 3,
    Q.Q3_K: 1 / 5,
    Q.Q4_K: 1 / 20,
    Q.Q5_K: 1 / 40,
    Q.Q6_K: 1 / 50,
    Q.Q4_0: 1 / 15,
    Q.Q4_1: 1 / 28,
    Q.Q5_0: 1 / 31,
    Q.Q5_1: 1 / 60,
}
ROWS = st_numpy.arrays(
    np.float32, (2, 256), elements=st.floats(-1000, 1000, width=32, allow_subnormal=False)
)


@pytest.fixture(scope="module")
def golden() -> GoldenBlocks:
    return read_blocks()


def error(
    values: np.ndarray, encoded: np.ndarray, type_: Q, weights: np.ndarray | float = 1.0
) -> float:
    """Weighted mean square of what encoding changes."""
    return float(np.mean(weights * (dequantize(encoded, type_) - values) ** 2))


@pytest.mark.parametrize("type_", OLDER, ids=lambda type_: type_.name)
@pytest.mark.parametrize("native", [True, False], ids=["libgguf", "gguf"])
def test_the_older_types_are_llama_cpps_byte_for_byte(
    golden: GoldenBlocks, type_: Q, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With libgguf and without it, the blocks are the same."""
    if native:
        pytest.importorskip("libgguf", reason="libgguf has no wheel for this platform")
    monkeypatch.setattr(encoders, "HAS_LIBGGUF", native)
    assert np.array_equal(encode_rows(golden.values, type_), golden.plain[type_])


@pytest.mark.parametrize("type_", K_TYPES, ids=lambda type_: type_.name)
def test_k_quants_are_no_worse_than_llama_cpps(golden: GoldenBlocks, type_: Q) -> None:
    """The error of our blocks, as the gguf package decodes them, is that of llama.cpp's."""
    ours = error(golden.values, encode_rows(golden.values, type_), type_)
    assert 0 < ours <= 1.02 * error(golden.values, golden.plain[type_], type_)


@pytest.mark.parametrize("type_", BLOCK_TYPES, ids=lambda type_: type_.name)
def test_weighted_blocks_are_no_worse_than_llama_cpps(golden: GoldenBlocks, type_: Q) -> None:
    """The same where columns have an importance; and it helps where it should."""
    weights = golden.importance
    encoded = encode_rows(golden.values, type_, weights)
    ours = error(golden.values, encoded, type_, weights)
    assert ours <= 1.05 * error(golden.values, golden.weighted[type_], type_, weights)
    assert ours < error(golden.values, encode_rows(golden.values, type_), type_, weights)


@pytest.mark.parametrize("type_", BLOCK_TYPES, ids=lambda type_: type_.name)
@given(rows=ROWS)
@settings(deadline=None, max_examples=15)
def test_what_is_decoded_is_close(type_: Q, rows: np.ndarray) -> None:
    """No number of a block is off by more than its share of the block's range."""
    encoded = encode_rows(rows, type_)
    assert encoded.nbytes == encoded_size(rows.shape, type_)
    off = np.abs(dequantize(encoded, type_) - rows).max(axis=1)
    span = np.maximum(rows.max(axis=1), 0) - np.minimum(rows.min(axis=1), 0)
    assert (off <= span * REACH[type_] + 1e-3).all()


@pytest.mark.parametrize("type_", BLOCK_TYPES, ids=lambda type_: type_.name)
@pytest.mark.parametrize("value", [0.0, 0.25, -0.25, 1e-38, 3e4])
def test_blocks_of_one_number(type_: Q, value: float) -> None:
    """All equal, all zero, all nearly zero, all large: finite, and close."""
    rows = np.full((3, 256), value, dtype=np.float32)
    for importance in (None, np.ones(256, dtype=np.float32), np.zeros(256, dtype=np.float32)):
        back = dequantize(encode_rows(rows, type_, importance), type_)
        assert np.isfinite(back).all()
        assert np.abs(back - rows).max() <= abs(value) * REACH[type_] + 1e-6


@pytest.mark.parametrize("type_", BLOCK_TYPES, ids=lambda type_: type_.name)
def test_a_row_does_not_depend_on_its_neighbours(type_: Q) -> None:
    """Rows alone and together give the same bytes, so files can be cut anywhere."""
    rows = np.random.default_rng(0).normal(size=(9, 512)).astype(np.float32)
    for importance in (None, np.linspace(0.5, 2, 512, dtype=np.float32)):
        whole = encode_rows(rows, type_, importance)
        parts = [
            encode_rows(rows[start : start + 2], type_, importance) for start in range(0, 9, 2)
        ]
        assert np.array_equal(whole, np.concatenate(parts))
