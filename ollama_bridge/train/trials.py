"""Micro-steps that are tried before a run: how much memory and time they take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from ollama_bridge.encoding.batches import Batches
from ollama_bridge.models.compute.memory import (
    PeakMemory,
    is_out_of_memory,
    release_unused,
    used_bytes,
)
from ollama_bridge.train.plan import Plan
from ollama_bridge.train.ranks import Ranks
from ollama_bridge.train.shards import Weights

R = TypeVar("R")

# Computes losses and gradients of some examples in a phase (by its number) as a plan says.
MicroStep = Callable[[int, Sequence[int], Plan], None]


@dataclass(frozen=True)
class SideWork:
    """Work of a run beside the steps over its corpus.

    Attributes:
        name: For people.
        attempt: Does a part of it, of the most memory that a part can take; returns how many
            seconds all of it will take.
        remedy: What to do where it does not fit; None: smaller parts of a batch need less.
    """

    name: str
    attempt: Callable[[Plan], float]
    remedy: str | None = None


@dataclass(frozen=True)
class Step:
    """A micro-step, or a part of the work beside them, that was tried.

    Attributes:
        tokens: Of its examples, with padding; 0 beside the steps.
        extra_bytes: In addition to what was held before the first one; infinite where the device
            said that it is too much.
        seconds: It took; beside the steps: all of that work will take.
    """

    tokens: int
    extra_bytes: float
    seconds: float


class Trial:
    """Tries micro-steps and throws away what they leave."""

    def __init__(
        self,
        micro_step: MicroStep,
        batches: Batches,
        weights: Weights,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        release_unused(device)
        self.held_bytes = used_bytes(device)
        self._micro_step = micro_step
        self._batches = batches
        self._weights = weights
        self._device = device
        self._ranks = ranks

    def __call__(self, members: tuple[int, ...], plan: Plan, phase: int = 0) -> Step:
        """These examples at once."""
        start_s = time.perf_counter()
        _, extra_bytes = self._measured(lambda: self._micro_step(phase, members, plan))
        seconds = time.perf_counter() - start_s
        return Step(self._batches.padded_tokens(members), extra_bytes, seconds)

    def heaviest(self, phase: int, plan: Plan) -> Step:
        """The heaviest part of a batch that the plan lets be computed at once."""
        assert plan.micro_batch_tokens is not None
        return self(self._batches.heaviest(plan.micro_batch_tokens), plan, phase)

    def beside(self, work: SideWork, plan: Plan) -> Step:
        """A part of the work beside the steps."""
        seconds, extra_bytes = self._measured(lambda: work.attempt(plan))
        return Step(0, extra_bytes, seconds or 0.0)

    def _measured(self, attempt: Callable[[], R]) -> tuple[R | None, float]:
        """What an attempt returns (None where memory was out), and the most it took anywhere."""
        found, extra_bytes = None, math.inf
        release_unused(self._device)
        try:
            with PeakMemory(self._device) as memory:
                found = attempt()
                wait_for(self._device)
            extra_bytes = float(memory.peak_bytes - self.held_bytes)
        except RuntimeError as exc:
            # In step, the others wait for this process in the middle of a layer.
            if self._weights.in_step or not is_out_of_memory(exc):
                raise
        finally:
            self._weights.clear_gradients()
        return found, self._ranks.largest(extra_bytes)  # all try the same next


def wait_for(device: torch.device) -> None:
    """Until the device has computed what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
