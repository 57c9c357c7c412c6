"""Hidden states, the shared prefix, and what padding must not change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.architectures import build_checkpoint
from fakes.models import build_tiny_model, build_tiny_tokenizer
from fakes.trainable import sentiment_examples

from ollama_bridge.encoding.batches import Batch, Batches
from ollama_bridge.encoding.encode import EncodedSplit, encode_split
from ollama_bridge.models.compute.forward import (
    activation_checkpointing,
    run_decoder,
    training_attention,
    vocabulary_logits,
)
from ollama_bridge.models.load import load_model


@pytest.fixture(scope="module")
def split() -> EncodedSplit:
    examples = sentiment_examples(7, name="train")
    return encode_split(examples, build_tiny_tokenizer(), max_length=512, name="train")


def one_batch(split: EncodedSplit, *, share_prefix: bool, pad_id: int = 0) -> Batch:
    """All examples in one batch."""
    batches = Batches(split.examples, batch_tokens=10_000, pad_id=pad_id, share_prefix=share_prefix)
    (batch,) = batches.in_order()
    return batch


def loss_and_gradient(model: Any, batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
    model.zero_grad()
    logits = vocabulary_logits(model, run_decoder(model, batch).supervised)
    loss = torch.nn.functional.cross_entropy(logits, batch.targets)
    loss.backward()
    return loss.detach(), [parameter.grad.clone() for parameter in model.parameters()]


def test_states_are_those_of_the_whole_model(split: EncodedSplit) -> None:
    """Logits on supervised positions equal the unbatched model's, one example at a time."""
    model = build_tiny_model()
    batch = one_batch(split, share_prefix=True)
    assert len(batch.prefix_ids) >= 8
    with torch.no_grad():
        found = vocabulary_logits(model, run_decoder(model, batch).supervised)
        expected = []
        for member in batch.members:
            example = split.examples[member]
            ids = torch.from_numpy(example.input_ids).long()[None]
            expected.append(model(input_ids=ids).logits[0, example.targets - 1])
    assert torch.allclose(found, torch.cat(expected), atol=1e-4)


def test_shared_prefix_changes_neither_loss_nor_gradient(split: EncodedSplit) -> None:
    """Computing the common prefix once is the same function, gradients included."""
    model = build_tiny_model()
    loss, gradients = loss_and_gradient(model, one_batch(split, share_prefix=False))
    shared_loss, shared_gradients = loss_and_gradient(model, one_batch(split, share_prefix=True))
    assert torch.allclose(loss, shared_loss, atol=1e-5)
    for plain, shared in zip(gradients, shared_gradients, strict=True):
        assert torch.allclose(plain, shared, atol=1e-5)


@pytest.mark.parametrize("share_prefix", [True, False])
def test_masked_tokens_change_nothing(split: EncodedSplit, share_prefix: bool) -> None:
    """Padding of any kind leaves loss and gradient as they are."""
    model = build_tiny_model()
    results = [
        loss_and_gradient(model, one_batch(split, share_prefix=share_prefix, pad_id=pad_id))
        for pad_id in (0, 99)
    ]
    assert torch.equal(results[0][0], results[1][0])
    for zeros, others in zip(results[0][1], results[1][1], strict=True):
        assert torch.allclose(zeros, others, atol=1e-7)


def test_all_layers_are_given_on_real_tokens(split: EncodedSplit) -> None:
    """Every layer's states cover the prefix once and each token behind it, padding left out."""
    model = build_tiny_model(layers=3)
    batch = one_batch(split, share_prefix=True)
    with torch.no_grad():
        states = run_decoder(model, batch, all_layers=True)
    tokens = len(batch.prefix_ids) + int(batch.attention_mask[:, len(batch.prefix_ids) :].sum())
    assert [tuple(layer.shape) for layer in states.layers] == [(tokens, 64)] * 4
    example = split.examples[batch.members[0]]
    ids = torch.from_numpy(example.input_ids[: example.targets[-1]]).long()[None]
    with torch.no_grad():
        expected = model(input_ids=ids, output_hidden_states=True).hidden_states
    for found, layer in zip(states.layers, expected, strict=True):
        assert torch.allclose(found[: ids.shape[1]], layer[0], atol=1e-4)


@pytest.mark.parametrize(("longest", "inside"), [(45, "packed"), (4096, "sdpa")])
def test_training_attention_is_the_same_function(
    split: EncodedSplit, longest: int, inside: str
) -> None:
    """Short rows train with plain attention on a CPU: the same values, and sdpa comes back."""
    model = build_tiny_model()
    model.set_attn_implementation("sdpa")
    loss, _ = loss_and_gradient(model, one_batch(split, share_prefix=True))
    with training_attention(model, longest=longest):
        assert model.config._attn_implementation == inside
        plain_loss, _ = loss_and_gradient(model, one_batch(split, share_prefix=True))
    assert torch.allclose(loss, plain_loss, atol=1e-5)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3"])
@pytest.mark.parametrize("share_prefix", [True, False])
def test_attention_maps_are_those_of_the_whole_model(
    split: EncodedSplit, tmp_path: Path, name: str, share_prefix: bool
) -> None:
    """Every real token looks where it does in the unbatched model, and never at padding.

    Also where a window is narrower than the beginning that all texts share.
    """
    folder = build_checkpoint(name, tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    if "sliding_window" in config:
        (folder / "config.json").write_text(json.dumps({**config, "sliding_window": 8}))
    model = load_model(folder)
    model.set_attn_implementation("eager")
    batch = one_batch(split, share_prefix=share_prefix)
    shared = len(batch.prefix_ids)
    assert shared > 8 or not share_prefix
    with torch.no_grad():
        maps = run_decoder(model, batch, attentions=True).attentions
        row = shared
        for member in batch.members:
            example = split.examples[member]
            ids = torch.from_numpy(example.input_ids[: example.targets[-1]]).long()[None]
            whole = model(input_ids=ids, output_attentions=True).attentions
            length = ids.shape[1]
            for found, expected in zip(maps, whole, strict=True):
                mine = torch.cat([found[:shared], found[row : row + length - shared]])
                theirs = expected[0].transpose(0, 1)
                assert torch.allclose(mine[..., :length], theirs, atol=1e-5)
                assert mine[..., length:].abs().sum() == 0
            row += length - shared
    assert all(found.shape[0] == row for found in maps)


@pytest.mark.parametrize("name", ["llama", "gemma3", "phi3", "qwen3"])
@pytest.mark.parametrize("share_prefix", [True, False])
def test_activation_checkpointing_is_the_same_function(
    split: EncodedSplit, tmp_path: Path, name: str, share_prefix: bool
) -> None:
    """Layers that are computed again give the same gradient, behind a shared prefix as well."""
    model = load_model(build_checkpoint(name, tmp_path / "checkpoint")).train()
    batch = one_batch(split, share_prefix=share_prefix)
    calls = []
    model.base_model.layers[-1].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    loss, gradients = loss_and_gradient(model, batch)
    once = len(calls)
    with activation_checkpointing(model, enabled=True):
        again_loss, again = loss_and_gradient(model, batch)
    assert len(calls) == 2 * once + 1  # the rows a second time, a shared prefix not
    assert torch.equal(loss, again_loss)
    for kept, computed in zip(gradients, again, strict=True):
        assert torch.allclose(kept, computed, atol=1e-6 * float(kept.abs().max()))
    assert all("forward" not in vars(layer) for layer in model.base_model.layers)
