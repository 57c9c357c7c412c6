"""Carries distributions over the teacher's vocabulary into the student's."""

from __future__ import annotations

import torch

from ollama_bridge.alignment.ladder import Alignment, Rung
from ollama_bridge.errors import TrainingError


class Projection:
    """Maps log-probabilities of the teacher to the student's ids.

    The mass of a token that the student lacks goes to the first token of what it would say
    instead; the mass of one that it cannot say at all stays out, so rows sum to 1 or less. What
    they lack is the residual of a soft label.

    Args:
        alignment: Not of the last rung.
        student_width: Columns of the result.
        device: Of the distributions.

    Raises:
        TrainingError: there is no mapping.
    """

    def __init__(
        self, alignment: Alignment, *, student_width: int, device: torch.device | None = None
    ) -> None:
        if alignment.to_student is None:
            raise TrainingError(
                "distributions cannot be carried over: " + "; ".join(alignment.reasons),
                hint="learn from the teacher's text: teacher.answers: daemon",
            )
        self._rung = alignment.rung
        self._width = student_width
        to_student = torch.from_numpy(alignment.to_student).to(device)
        self._known = torch.nonzero(to_student >= 0)[:, 0]
        self._targets = to_student[self._known]
        self._to_student = to_student

    def __call__(
        self,
        logprobs: torch.Tensor,
        *,
        taken: torch.Tensor | None = None,
        span_logprobs: torch.Tensor | None = None,
        targets: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Carry over N distributions.

        Where the student's right token covers several of the teacher's (``span_logprobs`` below 0
        further than the first token's own), the probability of the whole is the product along the
        text; it moves from the first token's place to the right token's. What the first token has
        beside it belongs to other continuations, which nobody measured: it becomes residual.

        Args:
            logprobs: (N, teacher's width), normalised.
            taken: (N,) the teacher's token along the text; with the next two, or none of them.
            span_logprobs: (N,) log-probability of all of the teacher's tokens that the student's
                right token covers; NaN where it covers one.
            targets: (N,) the student's right token.

        Returns:
            (N, student's width) log-probabilities whose rows sum to 1 or less; -inf for none.
        """
        if self._rung is Rung.SAME:
            return logprobs
        if self._rung is Rung.PADDED:
            shared = min(self._width, logprobs.shape[1])
            mapped = logprobs.new_full((logprobs.shape[0], self._width), float("-inf"))
            mapped[:, :shared] = logprobs[:, :shared]
            return mapped
        mass = logprobs.new_zeros(logprobs.shape[0], self._width)
        mass.index_add_(1, self._targets, logprobs[:, self._known].exp())
        if taken is not None and span_logprobs is not None and targets is not None:
            self._merge_spans(mass, logprobs, taken, span_logprobs, targets)
        return mass.log()

    def _merge_spans(
        self,
        mass: torch.Tensor,
        logprobs: torch.Tensor,
        taken: torch.Tensor,
        span_logprobs: torch.Tensor,
        targets: torch.Tensor,
    ) -> None:
        rows = torch.nonzero(~span_logprobs.isnan())[:, 0]
        first = taken[rows]
        places = self._to_student[first]
        said = places >= 0
        own = logprobs[rows[said], first[said]].exp()
        # Rounding may leave a hair below zero.
        mass[rows[said], places[said]] = (mass[rows[said], places[said]] - own).clamp_min(0.0)
        mass[rows, targets[rows]] += span_logprobs[rows].exp()
