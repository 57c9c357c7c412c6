"""Adapted layers as one function."""

from __future__ import annotations

import contextlib
from typing import Any, Literal

import pytest
import torch
from fakes.models import build_tiny_model
from torch import nn

from ollama_bridge.recipe.config import LoraSection
from ollama_bridge.train.adapted_products import adapted_product, one_function_each
from ollama_bridge.train.lora import add_lora
from ollama_bridge.train.optimizer import trainable_parameters

IDS = torch.arange(12).reshape(2, 6)


def adapted_model(section: LoraSection) -> Any:
    """A model whose adapters are trained already."""
    model = build_tiny_model()
    add_lora(model, section, seed=0)
    generator = torch.Generator().manual_seed(7)
    for parameter in trainable_parameters(model).values():
        parameter.data.normal_(std=0.1, generator=generator)
    return model


def logits_and_gradients(
    model: Any, *, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits = model(input_ids=IDS).logits
    torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), IDS[:, 1:].flatten()
    ).backward()
    gradients = [one.grad.flatten() for one in trainable_parameters(model).values()]
    return logits.detach(), torch.cat(gradients)


def test_gradient_is_that_of_the_formula() -> None:
    """Of input and both factors, by finite differences in float64."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 3, 8), (4, 8), (6, 4))
    given = [
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in shapes
    ]
    base = nn.Linear(8, 6).double().requires_grad_(False)

    def product(inputs: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return adapted_product(inputs, base, down, up, 0.75)

    torch.autograd.gradcheck(product, given)
    inputs, down, up = given
    plain = base(inputs) + 0.75 * inputs @ down.T @ up.T
    torch.testing.assert_close(product(*given), plain)


@pytest.mark.parametrize("variant", ["lora", "rslora"])
def test_layers_give_what_those_of_peft_give(variant: Literal["lora", "rslora"]) -> None:
    """Logits and gradients of a whole model, in float32."""
    model = adapted_model(LoraSection(r=4, alpha=12, variant=variant))
    expected = logits_and_gradients(model)
    with one_function_each(model):
        assert sum("forward" in vars(module) for module in model.modules()) == 2 * 7
        found = logits_and_gradients(model)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert not any("forward" in vars(module) for module in model.modules())


def test_bfloat16_is_as_near_as_peft_is() -> None:
    """Under autocast the gradient is no farther from the exact one than PEFT's."""
    model = adapted_model(LoraSection(r=4, alpha=12))
    _, exact = logits_and_gradients(model)
    errors = []
    for context in (contextlib.nullcontext(), one_function_each(model)):
        with context:
            _, found = logits_and_gradients(model, dtype=torch.bfloat16)
        errors.append(float((found - exact).norm() / exact.norm()))
    assert 0 < errors[1] < 1.2 * errors[0]


@pytest.mark.parametrize(
    "section",
    [LoraSection(r=4, dropout=0.1), LoraSection(r=4, variant="dora")],
    ids=["dropout", "dora"],
)
def test_others_stay_as_peft_has_them(section: LoraSection) -> None:
    """What this function does not compute."""
    model = adapted_model(section)
    with one_function_each(model):
        assert not any("forward" in vars(module) for module in model.modules())
