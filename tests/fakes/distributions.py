"""Pairs of distributions, and the divergence between them by the definition."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from hypothesis import strategies as st

from ollama_bridge.label_store.labels import SoftTargets, Targets
from ollama_bridge.train.losses.signals import StoredSignal

temperatures = st.sampled_from([0.5, 1.0, 2.0, 4.0])


@st.composite
def logit_pairs(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Student's and teacher's logits, (N, V) float64, flat or sharp."""
    rows, width = draw(st.integers(1, 4)), draw(st.integers(2, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    scale = draw(st.sampled_from([0.1, 1.0, 10.0]))
    pair = scale * torch.randn(2, rows, width, generator=generator, dtype=torch.float64)
    return pair[0], pair[1]


def naive_kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> list[float]:
    """T^2 * sum p log(p / q), written out with Python floats."""
    values = []
    for s_row, t_row in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = softmax(s_row, temperature), softmax(t_row, temperature)
        terms = [a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0]
        values.append(temperature**2 * math.fsum(terms))
    return values


def softmax(row: list[float], temperature: float) -> list[float]:
    """Written out with Python floats."""
    largest = max(row)
    powers = [math.exp((value - largest) / temperature) for value in row]
    return [power / math.fsum(powers) for power in powers]


def cut(teacher: torch.Tensor, top_k: int) -> SoftTargets:
    """Logits as a store keeps them, but in float64."""
    logprobs = torch.log_softmax(teacher, -1)
    kept, ids = logprobs.topk(top_k, dim=-1)
    return SoftTargets(ids, kept, logprobs.scatter(-1, ids, -math.inf).logsumexp(-1))


def stored_kl(student: torch.Tensor, soft: Targets, temperature: float = 1.0) -> torch.Tensor:
    """The forward KL of logits (N, V) to stored soft labels, as training computes it."""
    targets = torch.zeros(len(student), dtype=torch.int64)
    signal = StoredSignal(soft, targets)
    return signal.beside(student, slice(None)).kl_forward(temperature=temperature)


def gradient(loss: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor) -> torch.Tensor:
    """Of the loss of all positions together."""
    leaf = at.clone().requires_grad_()
    loss(leaf).sum().backward()
    assert leaf.grad is not None
    return leaf.grad
