"""The SFT control of a recipe."""

from __future__ import annotations

import pytest

from ollama_bridge.recipe.config import Recipe
from ollama_bridge.recipe.loading import parse_recipe
from ollama_bridge.recipe.losses import CrossEntropyLoss


def _recipe(**distill: object) -> Recipe:
    return parse_recipe(
        {
            "name": "mine",
            "description": "A recipe.",
            "task": {"kind": "classify", "system": "Which?", "labels": ["a", "b"]},
            "data": {"source": "vader"},
            "teacher": {"model": "ollama:smollm2:135m"},
            "distill": distill,
            "export": {"tag": "mine"},
        },
        source="mine.yaml",
    )


def test_control_has_hard_labels_alone() -> None:
    """Whatever the student learns from, the control reads no teacher, in as many steps."""
    recipe = _recipe(
        teacher="live",
        losses=[{"loss": "kl_reverse"}, {"loss": "hidden"}],
        epochs=2,
        hidden_epochs=0.5,
        on_policy={},
    )
    control = recipe.control_settings
    assert control.loss_terms == (CrossEntropyLoss(),)
    assert not control.loads_teacher
    assert not control.reads_soft_labels
    assert control.epochs == 2.5


@pytest.mark.parametrize("batches", [1, 3, 7, 19, 20, 40, 1000])
@pytest.mark.parametrize("hidden_epochs", [0.0, 0.5, 3.0, 200.0])
def test_control_takes_as_many_steps_of_a_small_file(batches: int, hidden_epochs: float) -> None:
    """Those of hidden states count for both: what is left of them is learnt from answers."""
    recipe = _recipe(epochs=2, hidden_epochs=hidden_epochs, min_steps=50)
    passes = recipe.distill.passes(batches)
    assert recipe.control_settings.passes(batches) == hidden_epochs + passes
    assert passes >= 2
    assert (hidden_epochs + passes) * batches >= 50
    if (hidden_epochs + 2) * batches >= 50:
        assert passes == 2
