"""What the losses share: sums, types and the checks of their arguments."""

from __future__ import annotations

import torch

from ollama_bridge.errors import TrainingError


def kl_of_logprobs(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """``sum exp(p) * (p - q)`` of log-probabilities, where a class without mass counts nothing."""
    possible = p > float("-inf")
    difference = torch.where(possible, p - q, 0.0)
    return (p.exp() * difference).sum(-1)


def log_softmax(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """The log-probabilities at a temperature: a new tensor."""
    scaled = logits if temperature == 1 else logits / temperature
    return torch.log_softmax(scaled, dim=-1)


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """In float32, or in float64 where it is that already."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def check_matrix(tensor: torch.Tensor, name: str) -> None:
    """Refuse what is not (rows, columns)."""
    if tensor.dim() != 2:
        raise TrainingError(f"{name} must have two dimensions, not shape {tuple(tensor.shape)}")


def check_same(left: torch.Tensor, right: torch.Tensor, left_name: str, right_name: str) -> None:
    """Refuse shapes that differ: they would be broadcast."""
    if left.shape != right.shape:
        raise TrainingError(
            f"{left_name} has shape {tuple(left.shape)}, {right_name} {tuple(right.shape)}"
        )


def check_temperature(temperature: float) -> None:
    """Refuse temperatures that divide by nothing or turn a distribution around."""
    if not temperature > 0:
        raise TrainingError(f"temperature must be positive, not {temperature}")
