"""The weighted loss of a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fakes.models import build_tiny_model, build_tiny_tokenizer
from fakes.trainable import sentiment_examples

from ollama_bridge.encoding.batches import Batch, Batches
from ollama_bridge.encoding.encode import encode_split
from ollama_bridge.errors import TrainingError
from ollama_bridge.label_store.labels import (
    SoftTargets,
    Targets,
    sample_tokens,
    top_k_with_residual,
)
from ollama_bridge.models.compute.forward import run_decoder, vocabulary_logits
from ollama_bridge.models.pruning.layers import keep_layers
from ollama_bridge.recipe.losses import (
    AttentionLoss,
    CrossEntropyLoss,
    HiddenLoss,
    JensenShannonLoss,
    KLForwardLoss,
    KLReverseLoss,
    KLSkewedLoss,
    TotalVariationLoss,
    UniversalLoss,
    VocabularyLoss,
)
from ollama_bridge.train.live_teacher import LiveTeacher
from ollama_bridge.train.losses import chunked
from ollama_bridge.train.losses import vocabulary as functions
from ollama_bridge.train.losses.layer_terms import LayerTerm, hidden_goals
from ollama_bridge.train.losses.objective import Objective
from ollama_bridge.train.losses.projections import Projections

HIDDEN = LayerTerm(HiddenLoss(weight=0.5), ((1, 1), (2, 2)))
ATTENTION = LayerTerm(AttentionLoss(weight=0.25), ((1, 1),))
DIVERGENCES: tuple[VocabularyLoss, ...] = (
    KLForwardLoss(temperature=2.0),
    KLReverseLoss(temperature=2.0),
    KLSkewedLoss(direction="forward", alpha=0.2),
    KLSkewedLoss(direction="reverse", alpha=0.2),
    JensenShannonLoss(beta=0.3),
    TotalVariationLoss(),
)


@pytest.fixture(scope="module")
def batch() -> Batch:
    examples = sentiment_examples(5, name="train")
    split = encode_split(examples, build_tiny_tokenizer(), max_length=512, name="train")
    (batch,) = Batches(split.examples, batch_tokens=10_000, pad_id=0).in_order()
    return batch


def eager(model: Any) -> Any:
    model.set_attn_implementation("eager")
    return model


def logits_of(model: Any, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return vocabulary_logits(model, run_decoder(model, batch).supervised)


def soft_targets(model: Any, batch: Batch, *, top_k: int = 20) -> SoftTargets:
    return top_k_with_residual(logits_of(model, batch), top_k=top_k)


def drawn_targets(model: Any, batch: Batch) -> Targets:
    logits = logits_of(model, batch)
    generator = torch.Generator().manual_seed(0)
    return sample_tokens(logits, torch.rand(len(logits), generator=generator), draws=50)


def test_parts_are_mixed_by_their_weights(batch: Batch) -> None:
    """The total is the weighted sum of the parts that it reports, each under its name."""
    student, teacher = eager(build_tiny_model()), eager(build_tiny_model(seed=1))
    losses = Objective(
        student,
        [
            CrossEntropyLoss(weight=0.25),
            KLForwardLoss(weight=0.75, temperature=2.0),
            KLForwardLoss(weight=0.1),
        ],
        layer_terms=[HIDDEN, ATTENTION],
        teacher=LiveTeacher(teacher),
    )(batch, soft_targets(teacher, batch))
    parts = {name: float(value) for name, value in losses.parts.items()}
    assert list(parts) == ["loss", "ce", "kl", "kl_2", "hidden", "attention"]
    assert all(value > 0 for value in parts.values())
    mixed = 0.25 * parts["ce"] + 0.75 * parts["kl"] + 0.1 * parts["kl_2"]
    mixed += 0.5 * parts["hidden"] + 0.25 * parts["attention"]
    assert losses.total.item() == pytest.approx(mixed, rel=1e-5)


@pytest.mark.parametrize("live", [True, False])
def test_student_equal_to_the_teacher_has_nothing_to_learn(batch: Batch, live: bool) -> None:
    """Every loss but hard labels is 0 for a copy of the teacher, stored or live."""
    teacher = eager(build_tiny_model())
    losses = Objective(
        eager(build_tiny_model()),
        [*DIVERGENCES, *([UniversalLoss()] if live else [])],
        layer_terms=[HIDDEN, ATTENTION],
        teacher=LiveTeacher(teacher),
        live=live,
    )(batch, None if live else soft_targets(teacher, batch))
    assert losses.total.item() == pytest.approx(0.0, abs=1e-4)


def test_every_loss_is_the_function_of_its_name(batch: Batch) -> None:
    """Of a live teacher over the vocabulary: means of the pure functions on whole logits."""
    student, teacher = build_tiny_model(), build_tiny_model(seed=1)
    pair = logits_of(student, batch), logits_of(teacher, batch)
    found = Objective(
        student, [*DIVERGENCES, UniversalLoss()], teacher=LiveTeacher(teacher), live=True
    )(batch, None)
    expected = {
        "kl": functions.kl_forward(*pair, temperature=2.0),
        "kl_reverse": functions.kl_reverse(*pair, temperature=2.0),
        "kl_skewed": functions.kl_skewed_forward(*pair, alpha=0.2),
        "kl_skewed_2": functions.kl_skewed_reverse(*pair, alpha=0.2),
        "js": functions.jensen_shannon(*pair, beta=0.3),
        "tv": functions.total_variation(*pair),
        "uld": functions.universal(*pair),
    }
    assert set(found.parts) == {"loss", *expected}
    for name, value in expected.items():
        assert float(found.parts[name]) == pytest.approx(float(value.mean()), rel=1e-5)


def test_stored_labels_bound_what_a_live_teacher_says(batch: Batch) -> None:
    """At T = 1 each divergence over a store's classes is below the whole one, equal at k = V."""
    student, teacher = build_tiny_model(), build_tiny_model(seed=1)
    losses = [loss.model_copy(update={"temperature": 1.0}) for loss in DIVERGENCES]
    live = Objective(student, losses, teacher=LiveTeacher(teacher), live=True)(batch, None)
    cut = Objective(student, losses)(batch, soft_targets(teacher, batch))
    full = Objective(student, losses)(batch, soft_targets(teacher, batch, top_k=384))
    for name, value in live.parts.items():
        assert 0 < float(cut.parts[name]) < float(value)
        assert float(full.parts[name]) == pytest.approx(float(value), rel=1e-4)


@pytest.mark.parametrize("source", ["live", "top_k", "sampled"])
def test_chunks_change_neither_loss_nor_gradient(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """Logits in small chunks equal logits at once, gradients of every weight included."""
    teacher = build_tiny_model(seed=1)
    make = {"live": lambda *_: None, "top_k": soft_targets, "sampled": drawn_targets}[source]
    compared = (KLForwardLoss(),) if source == "sampled" else DIVERGENCES
    soft, live = make(teacher, batch), source == "live"
    results = []
    for size in (1000, 2):
        monkeypatch.setattr(chunked, "_LOGITS_PER_CHUNK", size * 384)
        monkeypatch.setattr(chunked, "_MIN_POSITIONS", 1)
        model = build_tiny_model()
        losses = Objective(
            model, [CrossEntropyLoss(), *compared], teacher=LiveTeacher(teacher), live=live
        )(batch, soft)
        losses.total.backward()
        results.append((losses.total, [parameter.grad for parameter in model.parameters()]))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-5)
    for whole, parts in zip(results[0][1], results[1][1], strict=True):
        assert whole is not None
        assert parts is not None
        assert torch.allclose(whole, parts, atol=1e-5)


def test_padding_of_a_wider_head_is_left_out(batch: Batch) -> None:
    """A teacher with more rows than the tokenizer has tokens is compared on what both have."""
    student, teacher = build_tiny_model(), build_tiny_model(seed=1)
    losses = [KLForwardLoss(), KLReverseLoss()]
    expected = Objective(student, losses, teacher=LiveTeacher(teacher), live=True)(batch, None)
    padded = build_tiny_model(seed=1)
    padded.resize_token_embeddings(400, mean_resizing=False)
    found = Objective(student, losses, teacher=LiveTeacher(padded), live=True)(batch, None)
    for name, value in expected.parts.items():
        assert float(found.parts[name]) == pytest.approx(float(value), rel=1e-4)


def test_other_widths_are_compared_behind_a_projection(batch: Batch) -> None:
    """The projection gets a gradient, and can make states of another width the teacher's."""
    student, teacher = build_tiny_model(hidden=32), LiveTeacher(build_tiny_model(seed=1))
    term = LayerTerm(HiddenLoss(), ((2, 2),))
    projections = Projections((2,), student_width=32, teacher_width=64, seed=0)
    objective = Objective(student, (), layer_terms=[term], teacher=teacher, projections=projections)
    student.requires_grad_(False)
    optimizer = torch.optim.Adam(projections.parameters(), lr=0.02)
    values = []
    for _ in range(20):
        total = objective(batch, None).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        values.append(total.item())
    assert values[-1] < 0.5 * values[0]


def test_teacher_gets_no_gradient(batch: Batch) -> None:
    """A live teacher is frozen and in evaluation mode, whatever it was."""
    teacher = eager(build_tiny_model(seed=1)).train()
    live = LiveTeacher(teacher)
    Objective(
        eager(build_tiny_model()),
        DIVERGENCES,
        layer_terms=[HIDDEN, ATTENTION],
        teacher=live,
        live=True,
    )(batch, None).total.backward()
    assert not teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_teacher_is_done_before_the_student_keeps_anything(batch: Batch) -> None:
    """Else what it needs in passing would lie on top of the student's activations."""
    student, teacher = eager(build_tiny_model()), eager(build_tiny_model(seed=1))
    kept = 0
    seen: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += 1
        return tensor

    teacher.base_model.register_forward_hook(lambda *_: seen.append(kept))
    objective = Objective(
        student, DIVERGENCES, layer_terms=[HIDDEN], teacher=LiveTeacher(teacher), live=True
    )
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        objective(batch, None)
    assert set(seen) == {0}
    assert kept > 0


@pytest.mark.parametrize("batch_tokens", [150, 75])
def test_parts_of_a_batch_add_up_to_its_loss_and_gradient(batch_tokens: int) -> None:
    """However a batch is split, every kind of loss has one gradient."""
    examples = sentiment_examples(5, name="train")
    split = encode_split(examples, build_tiny_tokenizer(), max_length=512, name="train")
    batches = Batches(split.examples, batch_tokens=10_000, pad_id=0)
    (members,) = batches.sorted()
    teacher = eager(build_tiny_model(seed=1))
    vocabulary = [CrossEntropyLoss(weight=0.25), KLForwardLoss(weight=0.75, temperature=2.0)]
    parts = batches.split(members, batch_tokens)
    assert len(parts) > 1
    results = []
    for cut in ([members], parts):
        model = eager(build_tiny_model())
        losses = Objective(
            model,
            vocabulary,
            layer_terms=[HIDDEN, ATTENTION],
            teacher=LiveTeacher(teacher),
        )
        sums: dict[str, float] = {}
        for part in cut:
            piece = batches.collate(part, whole=members)
            found = losses(piece, soft_targets(teacher, piece))
            found.total.backward()
            for name, value in found.parts.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        results.append((sums, [parameter.grad for parameter in model.parameters()]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    for whole, added in zip(results[0][1], results[1][1], strict=True):
        assert whole is not None
        assert added is not None
        assert torch.allclose(whole, added, atol=1e-5 * float(whole.abs().max()))


def test_missing_soft_labels_are_refused(batch: Batch) -> None:
    """Soft labels of too few positions, or none, stop the step; so does asking for too much."""
    model = build_tiny_model()
    soft = soft_targets(model, batch)
    fewer = soft[1:]
    for wrong in (None, fewer):
        with pytest.raises(TrainingError, match="supervised positions"):
            Objective(model, [CrossEntropyLoss(), KLForwardLoss()])(batch, wrong)
    with pytest.raises(TrainingError, match="every token") as caught:
        Objective(model, [UniversalLoss()])(batch, soft)
    assert caught.value.hint is not None
    with pytest.raises(TrainingError, match="forward KL alone"):
        Objective(model, [KLReverseLoss()])(batch, drawn_targets(model, batch))


@pytest.mark.parametrize("wanted", [{"layer_terms": [HIDDEN]}, {"live": True}])
def test_some_losses_need_a_teacher(wanted: dict[str, Any]) -> None:
    """Without the teacher's weights there is nothing to compare with."""
    with pytest.raises(TrainingError, match="teacher"):
        Objective(build_tiny_model(), **wanted)


def test_models_without_attention_maps_are_told(batch: Batch) -> None:
    """Fused attention gives no maps: an error, and no loss of nothing."""
    teacher = LiveTeacher(build_tiny_model())
    objective = Objective(build_tiny_model(), (), layer_terms=[ATTENTION], teacher=teacher)
    with pytest.raises(TrainingError, match="no attention maps"):
        objective(batch, None)


def test_kept_layers_do_the_work_of_those_that_were_dropped() -> None:
    """Each up to the next kept one, the last up to the end; of another teacher evenly."""
    assert hidden_goals((0, 3, 5), 8, 8) == (3, 5, 8)
    assert hidden_goals((0, 1, 2), 3, 3) == (1, 2, 3)
    assert hidden_goals((0, 1, 2), 5, 9) == (4, 8, 9)


def test_dropping_no_layer_costs_no_hidden_state(batch: Batch) -> None:
    """With the first layers kept, all states but the last are the teacher's already."""
    teacher = build_tiny_model(layers=4)
    student = keep_layers(build_tiny_model(layers=4), (0, 1))
    with torch.no_grad():
        mine = run_decoder(student, batch, all_layers=True).layers
        goals = run_decoder(teacher, batch, all_layers=True).layers
    assert torch.allclose(mine[1], goals[1], atol=1e-5)
    assert not torch.allclose(mine[2], goals[4], atol=1e-2)
