"""Layers of which every process keeps a part compute what whole ones do."""

from __future__ import annotations

import pytest
import torch
from fakes.models import build_tiny_model, build_tiny_tokenizer
from fakes.trainable import sentiment_examples

from ollama_bridge.encoding.batches import Batches
from ollama_bridge.encoding.encode import encode_split
from ollama_bridge.models.compute.forward import activation_checkpointing, attention
from ollama_bridge.train.losses.objective import Objective
from ollama_bridge.train.optimizer import trainable_parameters
from ollama_bridge.train.ranks import Ranks
from ollama_bridge.train.shards import ShardedWeights, Weights


def gradients(*, sharded: bool, twice: bool = False) -> dict[str, torch.Tensor]:
    """Of the hard labels alone, over examples that share a prefix, after two batches."""
    model = build_tiny_model(layers=3)
    parameters = trainable_parameters(model)
    weights = Weights(parameters, Ranks())
    if sharded:
        weights = ShardedWeights(model, parameters, Ranks())
    examples = sentiment_examples(8, name="train")
    split = encode_split(examples, build_tiny_tokenizer(), max_length=512, name="train")
    batches = Batches(split.examples, batch_tokens=200, pad_id=0)
    objective = Objective(model)
    with attention(model, "sdpa"), activation_checkpointing(model, enabled=twice):
        for members in batches.sorted()[:2]:
            batch = batches.collate(members)
            assert len(batch.prefix_ids) >= 8
            objective(batch, None).total.backward()  # type: ignore[no-untyped-call]
    weights.sum_gradients()
    found = {}
    for name, parameter in weights.parameters.items():
        assert parameter.grad is not None
        found[name] = weights.gathered(name, parameter.grad)
    return found


@pytest.mark.usefixtures("group_of_one")
@pytest.mark.parametrize("twice", [False, True])
def test_a_shared_prefix_gives_the_gradient_of_whole_layers(twice: bool) -> None:
    """Losses over the vocabulary read keys and values alone of the last layer's prefix."""
    whole, found = gradients(sharded=False), gradients(sharded=True, twice=twice)
    assert found.keys() == whole.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)
