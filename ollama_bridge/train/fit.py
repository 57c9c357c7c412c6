"""Whether a run fits and how long it will take, found out by three micro-steps before it starts.

The longest example comes first: what does not fit fails now, and not at step 120. Weights and
random numbers are left alone.
"""

from __future__ import annotations

import functools
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ollama_bridge.encoding.batches import Batches
from ollama_bridge.errors import DiskFullError, TrainingError
from ollama_bridge.models.compute.memory import free_bytes
from ollama_bridge.recipe.config import OptimizerSection
from ollama_bridge.train.meter import rounded
from ollama_bridge.train.plan import Plan
from ollama_bridge.train.ranks import Ranks
from ollama_bridge.train.shards import Weights
from ollama_bridge.train.trials import MicroStep, SideWork, Step, Trial, wait_for

# Bytes of float32 a trained weight: its gradient, and AdamW's two moments.
GRADIENT_BYTES = 4
MOMENT_BYTES = 8
# Three steps do not show all: batches of other shapes leave holes in the heap. (SmolLM2, 10 layers:
# 1.36 times as much in the end as in the first steps.)
_RESERVE = 1.4
# Updates are timed on so many weights at most, and scaled.
_TIMED_WEIGHTS = 4_000_000


@dataclass(frozen=True)
class Forecast:
    """What a run will need.

    Attributes:
        plan: How batches have to be computed for it to fit.
        peak_bytes: Of this process's memory.
        free_bytes: What was free in addition to what it held.
        training_s: All steps, without validation.
        disk_bytes: At the most, at once.
        batch_tokens: Of a whole batch.
        side_work_s: Seconds of the work beside these steps, by its name.
    """

    plan: Plan
    peak_bytes: int
    free_bytes: int
    training_s: float
    disk_bytes: int
    batch_tokens: int
    side_work_s: Mapping[str, float] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """What it says, for people."""
        how = ""
        if self.plan.micro_batch_tokens is not None:
            how = f"; {self.plan.micro_batch_tokens} of {self.batch_tokens} tokens at once"
        if self.plan.activation_checkpointing:
            how += "; activations computed twice"
        beside = "".join(
            f", {rounded(seconds / 60)} minutes of {name}"
            for name, seconds in self.side_work_s.items()
        )
        return (
            f"needs about {rounded(self.peak_bytes / 1e9)} GB of memory at its peak "
            f"({self.free_bytes / 1e9:.3g} GB free), {rounded(self.training_s / 60)} minutes of "
            f"steps{beside}, {rounded(self.disk_bytes / 1e9)} GB on disk{how}"
        )

    def facts(self, *, all_steps: bool) -> dict[str, float]:
        """What was foretold of what the run has measured in the end.

        Args:
            all_steps: Whether it took all of them; of some the time was not foretold.
        """
        found = {"forecast_peak_memory_mb": round(self.peak_bytes / 1e6, 1)}
        if all_steps:
            steps_s = self.training_s + sum(self.side_work_s.values())
            found["forecast_steps_s"] = round(steps_s, 1)
        return found


def forecast(
    micro_step: MicroStep,
    batches: Batches,
    settings: OptimizerSection,
    *,
    phase_steps: Sequence[int],
    weights: Weights,
    model_weights: int,
    device: torch.device,
    ranks: Ranks | None = None,
    side_work: Sequence[SideWork] = (),
) -> Forecast:
    """Measure three micro-steps, and choose the largest micro batch that fits.

    First the longest example alone, then a few of the longest (what a token costs), then the
    heaviest micro batch, if by these two it fits. A further phase costs one micro-step more. What
    needs more than was foreseen is tried again with half of the micro batch, until it fits.

    Args:
        micro_step: Is called with examples; leaves gradients behind, which are thrown away.
        batches: Training data.
        settings: What the recipe asks for.
        phase_steps: Steps of each phase.
        weights: What is trained; without gradients.
        model_weights: All weights of the model, trained or not.
        device: Where the model is.
        ranks: The processes of the run, each of which measures; None: this one alone.
        side_work: What else the run does.

    Raises:
        TrainingError: not even one example fits, in any phase, or the side work does not.
    """
    ranks = ranks or Ranks()
    trial = Trial(micro_step, batches, weights, device, ranks)
    available_bytes = _available_bytes(weights, device, ranks)
    trained = sum(parameter.numel() for parameter in weights.parameters.values())
    moments_bytes = _moments_bytes(trained, available_bytes)
    room_bytes = available_bytes / _RESERVE - moments_bytes

    one, twice = _one_example(trial, batches, settings, room_bytes)
    if one.extra_bytes > room_bytes:
        needed_bytes = moments_bytes + one.extra_bytes
        raise _too_large(needed_bytes, available_bytes, f"an example of {one.tokens} tokens")
    share_tokens = -(-settings.batch_tokens // ranks.size)
    most = Plan(min(settings.micro_batch_tokens or share_tokens, share_tokens), twice)
    search = _Search(
        _foreseen(trial, batches, one, most, room_bytes),
        least_tokens=one.tokens,
        may_compute_twice=settings.activation_checkpointing is None,
        free_bytes=available_bytes,
        moments_bytes=moments_bytes,
    )
    steps = [search.step(trial, phase) for phase in range(len(phase_steps))]
    beside = {work.name: search.beside(trial, work) for work in side_work}
    plan = search.plan
    # Shares are whole examples, so one may be larger than the others: the limit holds it to size.
    if plan.micro_batch_tokens == share_tokens and ranks.size == 1:
        plan = replace(plan, micro_batch_tokens=None)

    update_s = _update_s(trained, device)
    tokens = sum(map(batches.padded_tokens, batches.sorted())) / len(batches) / ranks.size
    training_s = sum(
        count * (step.seconds / step.tokens * tokens + update_s)
        for count, step in zip(phase_steps, steps, strict=True)
    )
    extra_bytes = max(step.extra_bytes for step in (one, *steps, *beside.values()))
    return Forecast(
        plan,
        peak_bytes=trial.held_bytes + int(_RESERVE * (moments_bytes + extra_bytes)),
        free_bytes=available_bytes,
        training_s=training_s,
        disk_bytes=_disk_bytes(
            settings, training_s, trained=weights.count, all_weights=model_weights
        ),
        batch_tokens=settings.batch_tokens,
        side_work_s={name: work.seconds for name, work in beside.items()},
    )


def check_disk(folder: Path, needed_bytes: int) -> None:
    """Refuse a run whose state and weights will not find room.

    Raises:
        DiskFullError: they will not.
    """
    if shutil.disk_usage(folder).free < needed_bytes:
        raise DiskFullError(folder)


@dataclass
class _Search:
    """Makes the parts of a batch smaller until what is tried fits; never larger again.

    Attributes:
        plan: To begin with, then the one that fits; has a limit.
        least_tokens: Of the longest example: no part can be smaller.
        may_compute_twice: Whether activations may be, where not even one example fits otherwise.
        free_bytes: What may be taken in all.
        moments_bytes: What the optimizer will take of it.
    """

    plan: Plan
    least_tokens: int
    may_compute_twice: bool
    free_bytes: int
    moments_bytes: int

    def step(self, trial: Trial, phase: int) -> Step:
        """The heaviest micro-step of a phase that fits.

        Raises:
            TrainingError: not even the smallest parts fit.
        """
        what = f"an example of {self.least_tokens} tokens in phase {phase + 1}"
        return self._fitting(functools.partial(trial.heaviest, phase), what)

    def beside(self, trial: Trial, work: SideWork) -> Step:
        """What is done beside the steps, likewise."""
        return self._fitting(functools.partial(trial.beside, work), work.name, work.remedy)

    def _fitting(
        self, attempt: Callable[[Plan], Step], what: str, remedy: str | None = None
    ) -> Step:
        """The first attempt that fits."""
        room_bytes = self.free_bytes / _RESERVE - self.moments_bytes
        while (step := attempt(self.plan)).extra_bytes > room_bytes:
            smaller = self._smaller() if remedy is None else None
            if smaller is None:
                needed_bytes = self.moments_bytes + step.extra_bytes
                raise _too_large(needed_bytes, self.free_bytes, what, hint=remedy)
            self.plan = smaller
        return step

    def _smaller(self) -> Plan | None:
        """The next plan that needs less."""
        limit, twice = self.plan.micro_batch_tokens, self.plan.activation_checkpointing
        assert limit is not None
        if limit > self.least_tokens:
            return replace(self.plan, micro_batch_tokens=limit // 2)
        if self.may_compute_twice and not twice:
            return replace(self.plan, activation_checkpointing=True)
        return None


def _available_bytes(weights: Weights, device: torch.device, ranks: Ranks) -> int:
    """What a process may take, the same in each: processes of a machine share what is free."""
    found_bytes = free_bytes(device)
    if device.type != "cuda":
        found_bytes = max(0, found_bytes - weights.gathered_bytes) // ranks.on_this_machine
    return -int(ranks.largest(-found_bytes))


def _moments_bytes(trained: int, available_bytes: int) -> int:
    """What the optimizer takes as long as the run lasts; gradients have to fit beside it."""
    moments_bytes = trained * MOMENT_BYTES
    lasting_bytes = moments_bytes + trained * GRADIENT_BYTES
    if lasting_bytes > available_bytes:
        raise _too_large(lasting_bytes, available_bytes, "gradients and optimizer")
    return moments_bytes


def _one_example(
    trial: Trial, batches: Batches, settings: OptimizerSection, room_bytes: float
) -> tuple[Step, bool]:
    """The longest example, and whether its activations have to be computed twice."""
    longest, twice = batches.heaviest(1), bool(settings.activation_checkpointing)
    one = trial(longest, Plan(None, twice))
    if one.extra_bytes > room_bytes and settings.activation_checkpointing is None:
        one, twice = trial(longest, Plan(None, True)), True
    return one, twice


def _foreseen(trial: Trial, batches: Batches, one: Step, plan: Plan, room_bytes: float) -> Plan:
    """The plan with a limit by which the heaviest micro batch should fit: its own, a half, ..."""
    limit = plan.micro_batch_tokens or one.tokens
    few = trial(batches.heaviest(min(limit, max(2 * one.tokens, limit // 4))), plan)
    grows = 0.0
    if few.tokens > one.tokens and few.extra_bytes < math.inf:
        grows = max(0.0, few.extra_bytes - one.extra_bytes) / (few.tokens - one.tokens)
    while limit > one.tokens and one.extra_bytes + grows * (limit - one.tokens) > room_bytes:
        limit //= 2
    return replace(plan, micro_batch_tokens=limit)


def _disk_bytes(
    settings: OptimizerSection, training_s: float, *, trained: int, all_weights: int
) -> int:
    """Room for the checkpoint, and for what is kept meanwhile; a new file beside the old one."""
    needed_bytes = 4 * all_weights
    if training_s > settings.checkpoint_interval_s:
        needed_bytes += 2 * trained * (4 + MOMENT_BYTES)
    if settings.early_stopping is not None:
        needed_bytes += 2 * trained * 4
    return needed_bytes


def _update_s(weights: int, device: torch.device) -> float:
    """Seconds of an AdamW step, timed on a stand-in: the real weights must stay as they are."""
    stand_in = torch.nn.Parameter(torch.zeros(min(weights, _TIMED_WEIGHTS), device=device))
    stand_in.grad = torch.zeros_like(stand_in)
    optimizer = torch.optim.AdamW([stand_in], fused=True)
    optimizer.step()  # makes the moments
    wait_for(device)
    start_s = time.perf_counter()
    optimizer.step()
    wait_for(device)
    return (time.perf_counter() - start_s) * weights / stand_in.numel()


def _too_large(
    needed_bytes: float, available_bytes: int, what: str, *, hint: str | None = None
) -> TrainingError:
    size = "more memory than there is"
    if needed_bytes < math.inf:
        size = f"{needed_bytes / 1e9:.1f} GB of memory"
    return TrainingError(
        f"{what} would need {size}, only {available_bytes / 1e9:.1f} GB are free",
        hint=hint
        or "close other programs, keep fewer layers (student.layers), or set max_length lower",
    )
