"""Gated activations that keep less."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fakes.architectures import build_checkpoint
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from ollama_bridge.models.compute.gated_activations import gated, lean_activations
from ollama_bridge.models.load import load_model


def test_gradient_is_that_of_the_formula() -> None:
    """By finite differences in float64."""
    generator = torch.Generator().manual_seed(0)
    gate, up = (
        torch.randn(2, 5, generator=generator, dtype=torch.float64, requires_grad=True)
        for _ in range(2)
    )
    assert torch.autograd.gradcheck(lambda *given: gated(nn.functional.silu, *given), (gate, up))


def values_and_kept(layer: nn.Module, inputs: torch.Tensor) -> tuple[list[torch.Tensor], int]:
    """Output and gradients; and how many tensors of the width of the gate autograd kept."""
    kept: list[torch.Tensor] = []
    given = inputs.clone().requires_grad_(True)
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one),
    ):
        output = layer(given)
    slopes = torch.autograd.grad(output.square().sum(), [given, *layer.parameters()])
    shape = (*inputs.shape[:-1], layer.gate_proj.out_features)
    return [output, *slopes], len([one for one in kept if one.shape == shape])


@pytest.mark.parametrize(
    "case",
    ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "smollm3", "granite", "olmo2"],
)
def test_layers_stay_what_they_are_to_the_bit(case: str, tmp_path: Path) -> None:
    """Values and all gradients, in bfloat16 as in training; and a tensor less is kept."""
    layer = load_model(build_checkpoint(case, tmp_path / "checkpoint")).base_model.layers[0].mlp
    layer.requires_grad_(True)
    inputs = torch.randn(3, 7, 64, generator=torch.Generator().manual_seed(0))
    before, many = values_and_kept(layer, inputs)
    with lean_activations(layer):
        now, few = values_and_kept(layer, inputs)
    assert all(torch.equal(one, other) for one, other in zip(before, now, strict=True))
    assert few < many
    assert "forward" not in vars(layer)


def test_a_layer_made_otherwise_is_left_alone(tmp_path: Path) -> None:
    """Phi3's."""
    model = load_model(build_checkpoint("phi3", tmp_path / "checkpoint"))
    with lean_activations(model):
        assert not any("forward" in vars(module) for module in model.modules())
