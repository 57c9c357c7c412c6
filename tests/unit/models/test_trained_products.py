"""Products with trained matrices that keep no casts of these."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from fakes.architectures import build_checkpoint
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from ollama_bridge.models.compute.trained_products import lean_products
from ollama_bridge.models.load import load_model


def values_and_kept(
    layer: nn.Module, inputs: torch.Tensor, *, keeps_casts: bool
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Output and gradients; and what autograd kept."""
    kept: list[torch.Tensor] = []
    given = inputs.clone().requires_grad_(True)
    with (
        torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=keeps_casts),
        saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one),
    ):
        output = layer(given.clone())  # in a model no leaf, whose cast autocast would keep, too
    slopes = torch.autograd.grad(output.float().square().sum(), [given, *layer.parameters()])
    return [output, *slopes], kept


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(7, 48), (2, 7, 48)])
def test_same_bits_and_no_cast_is_kept(shape: tuple[int, ...], *, bias: bool) -> None:
    """Output and all gradients; of the weights float32 alone, which is there anyway."""
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(48, 32, bias=bias), nn.Linear(32, 16, bias=bias))
    inputs = torch.randn(shape)
    before, casts = values_and_kept(layer, inputs, keeps_casts=True)
    with lean_products(layer):
        now, kept = values_and_kept(layer, inputs, keeps_casts=False)
    assert all(torch.equal(one, other) for one, other in zip(before, now, strict=True))
    shapes = {(48, 32), (32, 48), (32, 16), (16, 32)}
    assert any(one.shape in shapes and one.dtype == torch.bfloat16 for one in casts)
    assert not any(one.shape in shapes and one.dtype == torch.bfloat16 for one in kept)
    assert "forward" not in vars(layer[0])


@pytest.mark.parametrize("case", ["llama", "qwen2", "gemma2", "phi3"])
def test_layers_stay_what_they_are_to_the_bit(case: str, tmp_path: Path) -> None:
    """Of real architectures."""
    layer = load_model(build_checkpoint(case, tmp_path / "checkpoint")).base_model.layers[0].mlp
    layer.requires_grad_(True)
    inputs = torch.randn(3, 7, 64, generator=torch.Generator().manual_seed(0))
    before, _ = values_and_kept(layer, inputs, keeps_casts=True)
    with lean_products(layer):
        now, _ = values_and_kept(layer, inputs, keeps_casts=False)
    assert all(torch.equal(one, other) for one, other in zip(before, now, strict=True))


def test_casts_that_serve_several_passes_are_autocasts_own() -> None:
    """And so are layers that are not trained, or computed without autocast."""
    layer = nn.Linear(8, 8)
    inputs = torch.randn(3, 8, requires_grad=True)
    with lean_products(layer):
        for context in (
            torch.autocast("cpu", dtype=torch.bfloat16),
            contextlib.nullcontext(),
        ):
            with context:
                assert type(layer(inputs).grad_fn).__name__ != "_ProductBackward"
    layer.requires_grad_(False)
    with lean_products(layer):
        assert "forward" not in vars(layer)
