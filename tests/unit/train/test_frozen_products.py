"""Weights that are not trained, cast once instead of at every call."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fakes.trainable import SYSTEM
from torch import nn

from ollama_bridge.models.compute.products import cast_products
from ollama_bridge.models.load import load_model
from ollama_bridge.recipe.config import LoraSection, TuneSection
from ollama_bridge.storage.artifacts import Checkpoint, Corpus
from ollama_bridge.train import finetune as stage
from ollama_bridge.train.frozen_products import cast_beside_adapters
from ollama_bridge.train.lora import add_lora

LORA = LoraSection(r=4, alpha=8)


def test_what_is_trained_or_not_multiplied_stays() -> None:
    """Frozen linear layers alone are cast."""
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    model[1].requires_grad_(False)
    cast_products(model, torch.bfloat16, frozen_only=True)
    types = {name: value.dtype for name, value in model.named_parameters()}
    assert {name for name, dtype in types.items() if dtype == torch.bfloat16} == {
        "1.weight",
        "1.bias",
    }


def test_weights_beside_adapters_come_back(base: Checkpoint) -> None:
    """Inside they are bfloat16, behind it the very float32 ones of the checkpoint."""
    model = load_model(base.path)
    before = {name: value.clone() for name, value in model.named_parameters()}
    add_lora(model, LORA, seed=0)
    with cast_beside_adapters(model, torch.bfloat16, base.path):
        inside = {value.dtype for name, value in model.named_parameters() if "base_layer" in name}
        assert inside == {torch.bfloat16}
    after = {
        name.replace(".base_layer", ""): value
        for name, value in model.named_parameters()
        if "lora_" not in name
    }
    assert set(after) == set(before)
    for name, value in before.items():
        assert after[name].dtype == torch.float32
        assert torch.equal(after[name], value)


@pytest.mark.usefixtures("no_reference_values")
def test_the_result_is_the_same_to_the_bit(
    base: Checkpoint, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Autocast would have made the same numbers at every call."""

    @contextlib.contextmanager
    def nothing(*_: object) -> Iterator[None]:
        yield

    settings = TuneSection(epochs=1, batch_tokens=400, lr=1e-2, dtype="bfloat16", lora=LORA)
    cast = stage.finetune(base, corpus, settings, system=SYSTEM, out_dir=tmp_path / "cast")
    monkeypatch.setattr(stage, "cast_beside_adapters", nothing)
    plain = stage.finetune(base, corpus, settings, system=SYSTEM, out_dir=tmp_path / "plain")
    assert cast.digest == plain.digest
