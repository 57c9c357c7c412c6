"""AdamW on float32 master weights, and its learning rate over time."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from ollama_bridge.errors import TrainingError
from ollama_bridge.recipe.config import OptimizerSection


def trainable_parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Parameters that are to be trained, by name; a tied matrix is there once.

    Raises:
        TrainingError: there is none, or one is not float32 (bfloat16 weights lose small updates,
            and diverged when tried).
    """
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if not parameters:
        raise TrainingError("the model has no trainable parameter")
    for name, value in parameters.items():
        if value.dtype != torch.float32:
            raise TrainingError(
                f"weight {name} is {value.dtype}; only float32 master weights are trained",
                hint="load the model with dtype=torch.float32",
            )
    return parameters


def make_optimizer(
    parameters: Mapping[str, torch.nn.Parameter], settings: OptimizerSection
) -> torch.optim.AdamW:
    """AdamW in the fused form; weight decay on matrices only.

    Args:
        parameters: By name; the state is saved in this order.
        settings: Weight decay. The learning rate is set at every step.
    """
    matrices = [value for value in parameters.values() if value.dim() >= 2]
    vectors = [value for value in parameters.values() if value.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.lr,
        betas=(0.9, 0.98),  # taken over from the first experiments; 0.999 was not compared
        eps=1e-8,
        fused=True,
    )


def lr_at(step: int, *, steps: int, peak: float, warmup: float, schedule: str) -> float:
    """The learning rate of one step; the first is step 0.

    Rises linearly over the first ``warmup`` share of the steps, then stays, or falls as half a
    cosine to 0 behind the last step.
    """
    rising = round(warmup * steps)
    if step < rising:
        return peak * (step + 1) / (rising + 1)
    if schedule == "constant":
        return peak
    done = (step - rising) / max(1, steps - rising)
    return peak * 0.5 * (1.0 + math.cos(math.pi * done))


def set_lr(
    optimizer: torch.optim.Optimizer,
    settings: OptimizerSection,
    step: int,
    *,
    steps: int,
    peak: float,
) -> float:
    """Give an optimizer the learning rate of a step, see :func:`lr_at`; returns it."""
    lr = lr_at(step, steps=steps, peak=peak, warmup=settings.warmup, schedule=settings.schedule)
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr
