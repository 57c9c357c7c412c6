"""The simulated arithmetic of GGUF types, against the ``gguf`` package's own encoders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes.models import build_tiny_model
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from ollama_bridge.models.rounding import ROUNDINGS, rounded


@pytest.mark.parametrize("name", sorted(ROUNDINGS))
def test_rounds_weights_as_the_encoder_does(name: str) -> None:
    """A matrix comes out as the GGUF encoding of it decodes."""
    values = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    values[3, :32] = 0.0
    gguf_type = GGMLQuantizationType[name.upper()]
    expected = dequantize(quantize(values, gguf_type), gguf_type)
    found = ROUNDINGS[name](torch.from_numpy(values)).numpy()
    # Ties may be rounded the other way: half a step of the coarsest block.
    np.testing.assert_allclose(found, expected, atol=2e-2 if name == "q8_0" else 0)
    assert np.mean(found != expected) < 0.01


@pytest.mark.parametrize("name", sorted(ROUNDINGS))
def test_the_model_is_as_before_afterwards(name: str) -> None:
    """Inside the block the model answers otherwise; after it, bit for bit as before."""
    model = build_tiny_model()
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        before = model(ids).logits
        with rounded(model, ROUNDINGS[name]):
            inside = model(ids).logits
        after = model(ids).logits
    assert torch.equal(before, after)
    assert 0 < float((inside - before).abs().max()) < 1.0


def test_the_model_is_restored_after_an_error() -> None:
    """An error inside the block leaves no rounding behind."""
    model = build_tiny_model()
    ids = torch.arange(4)[None]
    with torch.inference_mode():
        before = model(ids).logits
        with pytest.raises(KeyboardInterrupt), rounded(model, ROUNDINGS["q8_0"]):
            raise KeyboardInterrupt
        assert torch.equal(before, model(ids).logits)
