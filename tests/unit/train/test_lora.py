"""LoRA on all linear layers, and its merge."""

from __future__ import annotations

from typing import Literal, get_args

import pytest
import torch
from fakes.models import build_tiny_model

from ollama_bridge.errors import TrainingError
from ollama_bridge.recipe.config import LoraSection
from ollama_bridge.train.lora import Adapter, add_lora, merge_lora
from ollama_bridge.train.optimizer import trainable_parameters

Variant = Literal["lora", "rslora", "dora", "pissa"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
IDS = torch.arange(12).reshape(2, 6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_fresh_adapter_changes_nothing(variant: Variant) -> None:
    """Before training the model answers as before, and the seed decides the adapter."""
    plain = build_tiny_model()
    expected = plain(input_ids=IDS).logits
    section = LoraSection(r=4, variant=variant)
    adapted = [add_lora(build_tiny_model(), section, seed=1) for _ in range(2)]
    torch.testing.assert_close(adapted[0](input_ids=IDS).logits, expected, atol=1e-4, rtol=1e-4)
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


def test_chosen_layers_alone_are_adapted() -> None:
    """Names of layers instead of all of them; a part of their path tells equal names apart."""
    model = build_tiny_model()
    add_lora(model, LoraSection(r=4, targets=("q_proj", "self_attn.v_proj")), seed=0)
    assert len(trainable_parameters(model)) == 2 * 2 * 2


@pytest.mark.parametrize("targets", [("query",), ("q_proj", "query", "v_proj"), ("q_pro", "_proj")])
def test_a_name_that_no_layer_has_is_refused(targets: tuple[str, ...]) -> None:
    """Beside others, too: of another family's list some names are often found."""
    with pytest.raises(TrainingError, match="LoRA cannot be added") as caught:
        add_lora(build_tiny_model(), LoraSection(targets=targets), seed=0)
    missing = " or ".join(name for name in targets if name not in ("q_proj", "v_proj"))
    assert f"it has no layer {missing}; its linear layers are q_proj, k_proj" in str(caught.value)
    assert "lm_head" not in str(caught.value)
    assert "--set teacher.tune.lora.targets=null" in caught.value.hint


def test_a_layer_that_cannot_be_adapted_is_refused() -> None:
    """A whole block has a name, but no weight."""
    with pytest.raises(TrainingError, match="LoRA cannot be added"):
        add_lora(build_tiny_model(), LoraSection(targets=("q_proj", "mlp")), seed=0)


def test_an_embedding_that_is_the_output_matrix_too_is_not_adapted() -> None:
    """Merging what one of the two has learnt would change both."""
    for target in ("lm_head", "embed_tokens"):
        section = LoraSection(r=4, targets=("q_proj", target))
        with pytest.raises(TrainingError, match="one in this model") as caught:
            add_lora(build_tiny_model(), section, seed=0)
        assert "leave embed_tokens and lm_head out" in caught.value.hint


def test_variants_are_what_their_papers_say() -> None:
    """Scale of rsLoRA, lengths of DoRA, singular vectors of PiSSA; by hand."""
    layer = "model.layers.0.self_attn.q_proj"
    left, _, right = torch.linalg.svd(build_tiny_model().get_submodule(layer).weight.detach())
    values = 2.0 ** -torch.arange(64)
    weight = left @ values.diag() @ right
    adapted = {}
    for variant in VARIANTS:
        model = build_tiny_model()
        model.get_submodule(layer).weight.data.copy_(weight)
        add_lora(model, LoraSection(r=4, alpha=16, variant=variant), seed=0)
        adapted[variant] = model.get_submodule(layer)
    assert adapted["lora"].scaling["default"] == 4.0
    assert adapted["rslora"].scaling["default"] == 8.0
    lengths = adapted["dora"].lora_magnitude_vector["default"].weight
    torch.testing.assert_close(lengths.detach(), weight.norm(dim=1))
    best = left[:, :4] @ values[:4].diag() @ right[:4]
    torch.testing.assert_close(
        adapted["pissa"].base_layer.weight.detach(), weight - best, atol=1e-4, rtol=1e-2
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_merged_model_is_the_adapted_one(variant: Variant) -> None:
    """merge(adapter) and the adapter's forward pass are the same function, in float32."""
    section = LoraSection(r=4, alpha=16, variant=variant)
    adapted = add_lora(build_tiny_model(), section, seed=0)
    with torch.no_grad():
        for name, parameter in trainable_parameters(adapted).items():
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7))
            parameter.add_((0.05 if "magnitude" in name else 0.2) * noise)
        expected = adapted(input_ids=IDS).logits
        merged = merge_lora(adapted)
        found = merged(input_ids=IDS).logits
    assert torch.allclose(found, expected, atol=1e-3)
    assert not torch.allclose(found, build_tiny_model()(input_ids=IDS).logits, atol=1e-1)
    assert {name for name, _ in merged.named_parameters()} == {
        name for name, _ in build_tiny_model().named_parameters()
    }
    assert all(parameter.dtype == torch.float32 for parameter in merged.parameters())


def test_an_adapter_moves_onto_other_weights() -> None:
    """The product is the same; what it is added to is the other model's."""
    adapted = add_lora(build_tiny_model(seed=1), LoraSection(r=4, alpha=16), seed=0)
    with torch.no_grad():
        for parameter in trainable_parameters(adapted).values():
            parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(7))
    name = "model.layers.1.mlp.up_proj"
    before = [build_tiny_model(seed=seed).get_submodule(name).weight for seed in (0, 1)]
    moved = (
        merge_lora(Adapter.of(adapted).onto(build_tiny_model(seed=0))).get_submodule(name).weight
    )
    merged = merge_lora(adapted).get_submodule(name).weight
    torch.testing.assert_close(moved - before[0], merged - before[1])
    assert (moved - before[0]).abs().max() > 0.1


def test_merge_of_nan_is_refused() -> None:
    """A checkpoint with a weight that is no number is never written."""
    adapted = add_lora(build_tiny_model(), LoraSection(r=4), seed=0)
    with torch.no_grad():
        next(iter(trainable_parameters(adapted).values())).fill_(float("nan"))
    with pytest.raises(TrainingError, match="merging"):
        merge_lora(adapted)
