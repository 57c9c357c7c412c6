"""Norms as one function."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fakes.architectures import build_checkpoint
from fakes.models import build_tiny_model

from ollama_bridge.models.compute.fused_norms import fused_norms, rms_norm
from ollama_bridge.models.load import load_model


def test_gradient_is_that_of_the_formula() -> None:
    """Of input and weight, by finite differences in float64."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 3, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(8, generator=generator, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda *given: rms_norm(*given, eps=1e-5), (hidden, weight))
    plain = weight * hidden / (hidden.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(rms_norm(hidden, weight, eps=1e-5), plain)


def test_values_are_those_of_transformers_to_the_bit() -> None:
    """In float32, and under autocast once they are cast as linear layers cast them."""
    model = build_tiny_model()
    norm = model.base_model.layers[0].input_layernorm
    hidden = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rms_norm(hidden, norm.weight, eps=1e-5), norm(hidden))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = rms_norm(hidden, norm.weight, eps=1e-5)
        assert torch.equal(found, norm(hidden).bfloat16())


@pytest.mark.parametrize(
    ("case", "fused"), [("llama", 4), ("qwen3", 4), ("olmo2", 0), ("gemma3", 0)]
)
def test_norms_that_only_linear_layers_read(case: str, fused: int, tmp_path: Path) -> None:
    """Two a layer; not those of heads, of the end, or behind a layer, and not Gemma's."""
    model = load_model(build_checkpoint(case, tmp_path / "checkpoint"))
    with fused_norms(model):
        assert sum("forward" in vars(module) for module in model.modules()) == fused
    assert not any("forward" in vars(module) for module in model.modules())
