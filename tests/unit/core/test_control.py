"""The SFT control of a recipe."""

from __future__ import annotations

from ollama_bridge.recipe.config import parse_recipe
from ollama_bridge.recipe.losses import CrossEntropyLoss


def test_control_has_hard_labels_alone() -> None:
    """Whatever the student learns from, the control reads no teacher, in as many steps."""
    recipe = parse_recipe(
        {
            "name": "mine",
            "description": "A recipe.",
            "task": {"kind": "classify", "system": "Which?", "labels": ["a", "b"]},
            "data": {"source": "vader"},
            "teacher": {"model": "ollama:smollm2:135m"},
            "distill": {
                "teacher": "live",
                "losses": [{"loss": "kl_reverse"}, {"loss": "hidden"}],
                "epochs": 2,
                "hidden_epochs": 0.5,
                "on_policy": {},
            },
            "export": {"tag": "mine"},
        },
        source="mine.yaml",
    )
    control = recipe.control_settings
    assert control.loss_terms == (CrossEntropyLoss(),)
    assert not control.loads_teacher
    assert not control.reads_soft_labels
    assert control.epochs == 2.5
