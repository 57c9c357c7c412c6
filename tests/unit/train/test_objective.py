"""The weighted loss of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fakes.models import build_tiny_model, build_tiny_tokenizer
from fakes.trainable import sentiment_examples

from ollama_bridge.batches import Batch, Batches
from ollama_bridge.encoding import encode_split
from ollama_bridge.errors import TrainingError
from ollama_bridge.labels import SoftTargets, Targets, sample_tokens, top_k_with_residual
from ollama_bridge.models.forward import run_decoder, vocabulary_logits
from ollama_bridge.models.prune import keep_layers
from ollama_bridge.train import objective
from ollama_bridge.train.objective import Objective, Weights, layer_targets


@pytest.fixture(scope="module")
def batch() -> Batch:
    examples = sentiment_examples(5, name="train")
    split = encode_split(examples, build_tiny_tokenizer(), max_length=512, name="train")
    (batch,) = Batches(split.examples, batch_tokens=10_000, pad_id=0).in_order()
    return batch


def soft_targets(model: Any, batch: Batch) -> SoftTargets:
    with torch.no_grad():
        return top_k_with_residual(
            vocabulary_logits(model, run_decoder(model, batch).supervised), top_k=20
        )


def drawn_targets(model: Any, batch: Batch) -> Targets:
    with torch.no_grad():
        logits = vocabulary_logits(model, run_decoder(model, batch).supervised)
    generator = torch.Generator().manual_seed(0)
    return sample_tokens(logits, torch.rand(len(logits), generator=generator), draws=50)


def test_parts_are_mixed_by_their_weights(batch: Batch) -> None:
    """The total is the weighted sum of the parts that it reports."""
    student, teacher = build_tiny_model(), build_tiny_model(seed=1)
    weights = Weights(hard=0.25, soft=0.75, hidden=0.5, temperature=2.0)
    objective_ = Objective(student, weights, teacher=teacher, layer_map=(1, 2))
    losses = objective_(batch, soft_targets(teacher, batch))
    parts = {name: float(value) for name, value in losses.parts.items()}
    assert set(parts) == {"loss", "ce", "kl", "hidden"}
    mixed = 0.25 * parts["ce"] + 0.75 * parts["kl"] + 0.5 * parts["hidden"]
    assert losses.total.item() == pytest.approx(mixed, rel=1e-5)


def test_student_equal_to_the_teacher_has_nothing_to_learn(batch: Batch) -> None:
    """KL and hidden-state loss of a copy of the teacher are 0."""
    teacher = build_tiny_model()
    weights = Weights(hard=0.0, soft=1.0, hidden=1.0)
    losses = Objective(build_tiny_model(), weights, teacher=teacher, layer_map=(1, 2))(
        batch, soft_targets(teacher, batch)
    )
    assert losses.total.item() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("labels", [soft_targets, drawn_targets])
def test_chunks_change_neither_loss_nor_gradient(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, labels: Callable[[Any, Batch], Targets]
) -> None:
    """Logits in chunks of two positions equal logits at once, gradients included."""
    teacher = build_tiny_model(seed=1)
    soft = labels(teacher, batch)
    results = []
    for size in (1000, 2):
        monkeypatch.setattr(objective, "POSITIONS_PER_CHUNK", size)
        model = build_tiny_model()
        losses = Objective(model, Weights(hard=0.5, soft=0.5))(batch, soft)
        losses.total.backward()
        results.append((losses.total, [parameter.grad for parameter in model.parameters()]))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-6)
    for whole, chunked in zip(results[0][1], results[1][1], strict=True):
        assert whole is not None
        assert chunked is not None
        assert torch.allclose(whole, chunked, atol=1e-6)


def test_missing_soft_labels_are_refused(batch: Batch) -> None:
    """Soft labels of too few positions, or none, stop the step."""
    model = build_tiny_model()
    soft = soft_targets(model, batch)
    fewer = SoftTargets(soft.ids[1:], soft.logprobs[1:], soft.residual[1:])
    for wrong in (None, fewer):
        with pytest.raises(TrainingError, match="supervised positions"):
            Objective(model, Weights(hard=0.5, soft=0.5))(batch, wrong)


def test_hidden_states_need_a_teacher() -> None:
    """Without the teacher's weights there is nothing to compare with."""
    with pytest.raises(TrainingError, match="teacher"):
        Objective(build_tiny_model(), Weights(hidden=1.0))


def test_layer_targets_span_the_layers_that_were_dropped() -> None:
    """A kept layer has to do the work up to the next kept one, the last up to the end."""
    assert layer_targets((0, 3, 5), teacher_layers=8) == (3, 5, 8)
    assert layer_targets((0, 1, 2), teacher_layers=3) == (1, 2, 3)


def test_dropping_no_layer_costs_no_hidden_state(batch: Batch) -> None:
    """With the first layers kept, all states but the last are the teacher's already."""
    teacher = build_tiny_model(layers=4)
    student = keep_layers(build_tiny_model(layers=4), (0, 1))
    with torch.no_grad():
        mine = run_decoder(student, batch, all_layers=True).layers
        goals = run_decoder(teacher, batch, all_layers=True).layers
    assert torch.allclose(mine[1], goals[1], atol=1e-5)
    assert not torch.allclose(mine[2], goals[4], atol=1e-2)
