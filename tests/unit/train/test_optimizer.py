"""The learning rate over time, and what is trained."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_bridge.errors import TrainingError
from ollama_bridge.recipe.config import OptimizerSection
from ollama_bridge.train.optimizer import lr_at, make_optimizer, trainable_parameters


@settings(max_examples=60, deadline=None)
@given(
    steps=st.integers(1, 300),
    warmup=st.floats(0, 1),
    schedule=st.sampled_from(["cosine", "constant"]),
)
def test_rate_stays_between_zero_and_its_peak(steps: int, warmup: float, schedule: str) -> None:
    """No step has a rate of 0 or above the peak; it rises, then does not rise again."""
    rates = [
        lr_at(step, steps=steps, peak=1e-3, warmup=warmup, schedule=schedule)
        for step in range(steps)
    ]
    assert all(0 < rate <= 1e-3 for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_cosine_is_half_way_down_in_the_middle() -> None:
    """Half the steps behind the warm-up have half the rate left."""
    assert lr_at(50, steps=100, peak=1.0, warmup=0.0, schedule="cosine") == pytest.approx(0.5)


def test_weight_decay_spares_vectors() -> None:
    """Norm weights are not decayed."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))
    section = OptimizerSection(weight_decay=0.1)
    groups = make_optimizer(trainable_parameters(model), section).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(1, 0.1), (3, 0)]


def test_only_float32_weights_are_trained() -> None:
    """bfloat16 master weights lose small updates and are refused."""
    with pytest.raises(TrainingError, match="only float32"):
        trainable_parameters(torch.nn.Linear(2, 2, dtype=torch.bfloat16))
    with pytest.raises(TrainingError, match="no trainable parameter"):
        trainable_parameters(torch.nn.Linear(2, 2).requires_grad_(False))
