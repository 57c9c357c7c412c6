"""LoRA on all linear layers, and its merge."""

from __future__ import annotations

import pytest
import torch
from fakes.models import build_tiny_model

from ollama_bridge.config import LoraSection
from ollama_bridge.errors import TrainingError
from ollama_bridge.train.lora import add_lora, merge_lora
from ollama_bridge.train.optimizer import trainable_parameters

IDS = torch.arange(12).reshape(2, 6)


def test_fresh_adapter_changes_nothing() -> None:
    """B starts at 0: before training the model answers as before, and the seed decides A."""
    plain = build_tiny_model()
    expected = plain(input_ids=IDS).logits
    adapted = [add_lora(build_tiny_model(), LoraSection(r=4), seed=1) for _ in range(2)]
    assert torch.allclose(adapted[0](input_ids=IDS).logits, expected, atol=1e-6)
    weights = [trainable_parameters(model) for model in adapted]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_every_linear_layer_is_adapted_and_nothing_else_is_trained() -> None:
    """Seven matrices a layer get an A and a B; embedding, norms and output stay as they are."""
    model = build_tiny_model()
    add_lora(model, LoraSection(r=4), seed=0)
    names = trainable_parameters(model)
    assert len(names) == 2 * 7 * 2
    assert all("lora_" in name for name in names)


@pytest.mark.filterwarnings("error")
def test_nobody_is_warned_of_what_libraries_do_to_each_other() -> None:
    """Adding LoRA warns of nothing, whatever the caller's filters are."""
    add_lora(build_tiny_model(), LoraSection(r=4), seed=0)


def test_merged_model_is_the_adapted_one() -> None:
    """merge(adapter) and the adapter's forward pass are the same function, in float32."""
    adapted = add_lora(build_tiny_model(), LoraSection(r=4, alpha=16), seed=0)
    with torch.no_grad():
        for parameter in trainable_parameters(adapted).values():
            parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(7))
        expected = adapted(input_ids=IDS).logits
        merged = merge_lora(adapted)
        found = merged(input_ids=IDS).logits
    assert torch.allclose(found, expected, atol=1e-3)
    assert not torch.allclose(found, build_tiny_model()(input_ids=IDS).logits, atol=1e-1)
    assert {name for name, _ in merged.named_parameters()} == {
        name for name, _ in build_tiny_model().named_parameters()
    }
    assert all(parameter.dtype == torch.float32 for parameter in merged.parameters())


def test_merge_of_nan_is_refused() -> None:
    """A checkpoint with a weight that is no number is never written."""
    adapted = add_lora(build_tiny_model(), LoraSection(r=4), seed=0)
    with torch.no_grad():
        next(iter(trainable_parameters(adapted).values())).fill_(float("nan"))
    with pytest.raises(TrainingError, match="merging"):
        merge_lora(adapted)
