"""The simulated arithmetic of GGUF types, against the ``gguf`` package's own encoders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes.models import build_tiny_model
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from ollama_bridge.models.reference.rounding import ARITHMETIC, rounded
from ollama_bridge.quantization.encoders import BLOCK_TYPES, encode_rows

Q = GGMLQuantizationType
EXACT = (Q.F32, Q.F16, Q.BF16, Q.Q8_0)


@pytest.mark.parametrize("type_", EXACT, ids=lambda type_: type_.name)
def test_rounds_weights_as_the_encoder_does(type_: Q) -> None:
    """A matrix comes out as the GGUF encoding of it decodes."""
    values = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    values[3, :32] = 0.0
    expected = dequantize(quantize(values, type_), type_)
    found = ARITHMETIC[type_].weights(torch.from_numpy(values)).numpy()
    # Ties may be rounded the other way: half a step of the coarsest block.
    np.testing.assert_allclose(found, expected, atol=2e-2 if type_ == Q.Q8_0 else 0)
    assert np.mean(found != expected) < 0.01


@pytest.mark.parametrize("type_", BLOCK_TYPES, ids=lambda type_: type_.name)
def test_rounds_a_little_more_than_an_encoder_that_searches(type_: Q) -> None:
    """The estimate's error is the encoder's or more, and not a multiple of it."""
    values = np.random.default_rng(0).normal(size=(64, 512)).astype(np.float32)
    values[3, :256] = 0.0
    searched = dequantize(encode_rows(values, type_), type_)
    found = ARITHMETIC[type_].weights(torch.from_numpy(values)).numpy()
    ratio = np.square(found - values).mean() / np.square(searched - values).mean()
    assert 0.95 < ratio < 2.5


@pytest.mark.parametrize("type_", ARITHMETIC, ids=lambda type_: type_.name)
def test_the_model_is_as_before_afterwards(type_: Q) -> None:
    """Inside the block the model answers otherwise; after it, bit for bit as before."""
    model = build_tiny_model(hidden=256)
    types = {name: type_ for name, weight in model.named_parameters() if weight.dim() > 1}
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        before = model(ids).logits
        with rounded(model, types):
            inside = model(ids).logits
        after = model(ids).logits
    assert torch.equal(before, after)
    moved = float((inside - before).abs().max())
    assert (moved == 0) == (type_ == Q.F32)


def test_the_model_is_restored_after_an_error() -> None:
    """An error inside the block leaves no rounding behind."""
    model = build_tiny_model()
    types = {name: Q.Q8_0 for name, _ in model.named_parameters()}
    ids = torch.arange(4)[None]
    with torch.inference_mode():
        before = model(ids).logits
        with pytest.raises(KeyboardInterrupt), rounded(model, types):
            raise KeyboardInterrupt
        assert torch.equal(before, model(ids).logits)


def test_scaled_embeddings_stay_scaled() -> None:
    """Gemma multiplies what it looks up; rounding must not undo that."""
    config = Gemma3TextConfig(
        vocab_size=32,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
    )
    model = Gemma3ForCausalLM(config)
    ids = torch.arange(4)[None]
    with torch.inference_mode():
        before = model.model.embed_tokens(ids)
        with rounded(model, {"model.embed_tokens.weight": Q.F16}):
            inside = model.model.embed_tokens(ids)
    torch.testing.assert_close(inside, before, rtol=1e-3, atol=1e-3)
