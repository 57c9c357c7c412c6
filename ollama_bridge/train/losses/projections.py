"""Learned maps from the student's hidden states to the teacher's width, for training only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from ollama_bridge.models.compute.forward import CausalModel

_ATTRIBUTE = "hidden_projections"


class Projections(nn.Module):
    """A matrix for each layer whose hidden state is compared.

    Source: W_h of TinyBERT, arXiv 1909.10351, equation 8 (there one for all layers).

    Args:
        states: Numbers of the student's hidden states.
        student_width: Of the student's hidden states.
        teacher_width: Of the teacher's.
        seed: Of the first values: random columns of length 1, at right angles where there is room.
    """

    def __init__(
        self, states: Iterable[int], *, student_width: int, teacher_width: int, seed: int
    ) -> None:
        super().__init__()
        self.matrices = nn.ModuleDict()
        generator = torch.Generator().manual_seed(seed)
        for number in sorted(set(states)):
            matrix: nn.Linear = nn.utils.skip_init(
                nn.Linear, student_width, teacher_width, bias=False
            )
            nn.init.orthogonal_(matrix.weight, generator=generator)
            self.matrices[str(number)] = matrix

    def forward(self, number: int, states: torch.Tensor) -> torch.Tensor:
        """Hidden states (N, teacher's D) of the student's (N, D)."""
        projected: torch.Tensor = self.matrices[str(number)](states)
        return projected


@contextlib.contextmanager
def trained_with(model: CausalModel, projections: Projections | None) -> Iterator[None]:
    """Let projections be trained, saved and resumed as weights of the model, inside the block.

    Behind it they are no part of the model any more: no checkpoint has them.
    """
    if projections is None:
        yield
        return
    model.add_module(_ATTRIBUTE, projections)
    try:
        yield
    finally:
        delattr(model, _ATTRIBUTE)
