"""The one training loop: fine-tuning, distillation and the SFT control all run through it.

After ``kill -9`` the same call gives bitwise the weights of an unbroken run: the order of the
data comes from (seed, phase, epoch), the state is saved whole and in one rename, and *when* it is
saved changes nothing. What may differ between two runs (compute type, threads, how a batch is split
to fit) is pinned by the caller (``models.compute.precision``) or in the state, the last of them
unless the settings of the resumed run say otherwise: who was out of memory goes on with smaller
parts, and who asks for larger ones than before with those that are found to fit. The weights of the
last step are the result, for the rate has fallen to 0 by then; with ``early_stopping`` it is those
of the best evaluation. Several processes (``train.ranks``) take every step together.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ollama_bridge.encoding.batches import Batches
from ollama_bridge.errors import DiskFullError, TrainingError
from ollama_bridge.models.compute.forward import CausalModel, training_attention
from ollama_bridge.models.compute.fused_norms import fused_norms
from ollama_bridge.models.compute.fused_rotation import fused_rotation
from ollama_bridge.models.compute.gated_activations import lean_activations
from ollama_bridge.models.compute.memory import PeakMemory, memory_is_enough
from ollama_bridge.models.compute.precision import Precision, random_numbers_aside
from ollama_bridge.models.compute.trained_products import lean_products
from ollama_bridge.recipe.config import OptimizerSection
from ollama_bridge.reporting import Note, Reporter, StageStarted
from ollama_bridge.train.fit import Forecast, check_disk, forecast
from ollama_bridge.train.gradients import Gradients
from ollama_bridge.train.meter import Meter
from ollama_bridge.train.on_policy import PREFIX, OnPolicy
from ollama_bridge.train.optimizer import make_optimizer, set_lr
from ollama_bridge.train.phase import Phase
from ollama_bridge.train.plan import Plan, less_memory
from ollama_bridge.train.ranks import Ranks
from ollama_bridge.train.result import TrainingResult
from ollama_bridge.train.shards import Weights, place_weights
from ollama_bridge.train.state import (
    STATE_NAME,
    Position,
    best_path,
    load_best,
    load_position,
    load_state,
    save_best,
    save_state,
)
from ollama_bridge.train.stopping import Stopping
from ollama_bridge.train.trials import SideWork

# Saving may take this share of the time; where the disk is slow, states are saved less often.
_MAX_SAVING_SHARE = 0.05
# Orders of the data that are a phase's own; of more epochs than that the next one has them again.
_ORDERS_A_PHASE = 1000
# Points of the loss curve that are kept of one phase.
_CURVE_POINTS = 200
# Looks at the memory that steps hold: many in a step of any size, and no work to speak of.
_MEMORY_INTERVAL_S = 0.02

Validation = Callable[[], dict[str, float]]


def train(
    model: CausalModel,
    phases: Sequence[Phase],
    batches: Batches,
    settings: OptimizerSection,
    *,
    stage: str,
    precision: Precision,
    state_dir: Path,
    reporter: Reporter,
    validate: Validation | None = None,
    score: str = "token_accuracy",
) -> TrainingResult:
    """Train the parameters of ``model`` that require a gradient, in place.

    Args:
        model: float32, on the CPU.
        phases: One after another; each begins with a new optimizer.
        batches: Training data.
        settings: Optimizer, schedule, seed. ``epochs`` and ``lr`` are the phases'; only the last
            phase stops early.
        stage: For events and messages.
        precision: Device and compute type.
        state_dir: Where the state and the best weights are kept; found there, training goes on.
        reporter: Hears of progress.
        validate: Called at the end of every epoch, and as often as ``early_stopping`` says, without
            gradient and in evaluation mode.
        score: Of ``validate``; early stopping goes by it where it is told no metric.

    Raises:
        TrainingError: the loss or gradient is not a number any more, or not even one example fits
            into memory.
        DiskFullError: there is no room for state and weights.
        ArtifactError: the saved state is damaged.
    """
    ranks = Ranks.current()
    weights = place_weights(model, precision.device, ranks, sharded=settings.shard_layers)
    state_path = state_dir / STATE_NAME
    saved = ranks.agree(load_position(state_path) if ranks.first else None)
    position = saved or Position()
    first, totals = position.phase, [phase.steps(batches) for phase in phases]
    if saved is not None:
        done = sum(totals[:first]) + position.step
        reporter.emit(StageStarted(stage, resumed_from=done))
    for advice in (ranks.advice_on_threads(precision), ranks.advice_on_device(precision)):
        if advice:
            reporter.emit(Note(stage, "warning", advice))
    section = settings.early_stopping
    run = _Run(
        Gradients(model, weights, precision),
        phases,
        batches,
        settings,
        stage=stage,
        ranks=ranks,
        state_dir=state_dir,
        reporter=reporter,
        validate=validate,
        early=None if section is None else Stopping(section, score),
        saver=_Saver(state_path, settings.checkpoint_interval_s, has_saved=saved is not None),
        position=position,
    )
    written = [phase.on_policy for phase in phases if phase.on_policy is not None]
    longest = max([batches.longest, *(one.longest for one in written)])

    with (
        random_numbers_aside(precision.device),
        _quick_to_train(model, longest=longest),
        PeakMemory(precision.device, interval_s=_MEMORY_INTERVAL_S) as memory,
    ):
        model.train()
        plan, foretold = run.planned(resumed=saved is not None)
        with memory_is_enough(less_memory(settings, plan, longest=batches.longest)):
            meter = Meter(stage, sum(totals), reporter, memory)
            torch.manual_seed(settings.seed)
            for number in range(first, len(phases)):
                resumed = saved is not None and number == first
                run.train_phase(number, plan, meter, resumed=resumed)
    run.keep_best()
    weights.put_back()
    model.eval()
    if saved is not None:
        foretold = None  # the steps before it are not measured here
    facts = _facts(meter, foretold, written, all_steps=position.step == totals[-1])
    return TrainingResult(position.log, facts, plan, position.best, ranks.size)


def _facts(
    meter: Meter, foretold: Forecast | None, written: Sequence[OnPolicy], *, all_steps: bool
) -> dict[str, float]:
    """What the run took, beside what was foretold of it, and what the student wrote."""
    facts = meter.facts()
    if foretold is not None:
        facts |= foretold.facts(all_steps=all_steps)
        meter.tell(facts)
    for one in written:
        facts |= one.facts()
    return facts


@contextlib.contextmanager
def _quick_to_train(model: CausalModel, *, longest: int) -> Iterator[None]:
    """Inside the block the model trains in less time and memory than transformers' own."""
    with (
        training_attention(model, longest=longest),
        fused_norms(model),
        fused_rotation(model),
        lean_activations(model),
        lean_products(model.base_model),
    ):
        yield


@dataclass(frozen=True)
class _Run:
    """What a run is made of, and how far it has come: ``position`` alone changes."""

    gradients: Gradients
    phases: Sequence[Phase]
    batches: Batches
    settings: OptimizerSection
    _: KW_ONLY
    stage: str
    ranks: Ranks
    state_dir: Path
    reporter: Reporter
    validate: Validation | None
    early: Stopping | None
    saver: _Saver
    position: Position

    def planned(self, *, resumed: bool) -> tuple[Plan, Forecast | None]:
        """How batches are computed: as before, or as is found to fit now, with what they need."""
        position, settings, ranks = self.position, self.settings, self.ranks
        needs, device = None, self.gradients.precision.device.type
        moved = (position.processes, position.device) != (ranks.size, device)
        grows = position.plan.has_to_grow(settings, position.asked)
        if not resumed or moved or grows:
            needs = self._forecast()
            self.reporter.emit(Note(self.stage, "info", needs.sentence))
            if not resumed and ranks.first:
                check_disk(self.state_dir, needs.disk_bytes)
            position.plan, position.processes = needs.plan, ranks.size
            position.device = device
        plan = position.plan.changed_by(settings)
        position.plan, position.asked = plan, settings.micro_batch_tokens
        if resumed and (grows or plan != Plan()):
            self.reporter.emit(Note(self.stage, "info", plan.sentence(settings)))
        return plan, needs

    def train_phase(self, number: int, plan: Plan, meter: Meter, *, resumed: bool) -> None:
        """All steps of a phase, or those that are left of it."""
        phase, position, batches = self.phases[number], self.position, self.batches
        settings, ranks, weights = self.settings, self.ranks, self.gradients.weights
        optimizer = make_optimizer(weights.parameters, settings)
        if resumed:
            load_state(self.state_dir / STATE_NAME, weights=weights, optimizer=optimizer)
        else:
            position.phase, position.step, position.rollouts = number, 0, None
        done_before = sum(one.steps(batches) for one in self.phases[:number])
        steps = phase.steps(batches)
        on_policy = phase.on_policy
        rollout_steps: frozenset[int] = frozenset()
        if on_policy is not None:
            on_policy.restore(position.rollouts)
            rollout_steps = on_policy.steps(steps)
        is_last = number + 1 == len(self.phases)
        stopping = self.early if is_last else None
        epoch_steps = phase.epoch_steps(batches)
        every = stopping.interval(epoch_steps) if stopping else epoch_steps
        order: list[tuple[int, ...]] = []
        is_new = position.step < steps

        while position.step < steps:
            epoch, index = divmod(position.step, len(batches))
            if not order or index == 0:
                order = batches.order(seed=settings.seed, epoch=number * _ORDERS_A_PHASE + epoch)
            lr = set_lr(optimizer, settings, position.step, steps=steps, peak=phase.lr)
            if not ranks.first:  # the first one's generator is saved, the others' need not be
                torch.manual_seed(_seed(settings.seed, ranks.rank, number, position.step))

            step, start_s = done_before + position.step + 1, time.monotonic()
            if on_policy is not None and position.step in rollout_steps:
                source, members = on_policy.lesson(position.step, ranks)
                position.rollouts = on_policy.state
                parts = self._update(phase.on_rollouts, source, members, plan, optimizer, step)
                losses = {PREFIX + name: value for name, value in parts.items()}
                losses |= on_policy.scores()
            else:
                source, members = batches, order[index]
                losses = self._update(phase, source, members, plan, optimizer, step)
            seconds = time.monotonic() - start_s
            position.step += 1
            meter.step(step, source.tokens(members), {**losses, "lr": lr}, seconds=seconds)

            ended = position.step == steps or position.step % epoch_steps == 0
            evaluated = self.validate is not None and (ended or position.step % every == 0)
            if ended or evaluated or position.step % max(1, steps // _CURVE_POINTS) == 0:
                entry: dict[str, Any] = {"phase": phase.name, "step": position.step, **losses}
                if evaluated:
                    entry["validation"] = self._validation()
                position.log.append(entry)
                meter.record(step, entry)
            if evaluated and stopping is not None:
                if stopping.is_best(position, entry):
                    save_best(best_path(self.state_dir, position.step), weights)
                if stopping.is_over(position):
                    break
            if position.step < steps and ranks.agree(self.saver.is_due()):
                self.saver.save(position, weights, optimizer)

        # A phase that is over must not be trained again, however short the next one is; nor the
        # last one while its checkpoint is completed, where there is room for a state at all. What
        # stopped early would go on.
        if not is_last:
            self.saver.save(position, weights, optimizer)
        elif is_new and position.step == steps and self.saver.has_saved:
            with contextlib.suppress(DiskFullError):  # the checkpoint is smaller: it may have room
                self.saver.save(position, weights, optimizer)

    def keep_best(self) -> None:
        """Put the best weights back, where early stopping has found any."""
        best = self.position.best
        if best is None:
            return
        self.ranks.wait()
        load_best(best_path(self.state_dir, best["step"]), self.gradients.weights)
        self.reporter.emit(Note(self.stage, "info", f"kept the weights of step {best['step']}"))
        if self.early is not None and (problem := self.early.problem(best["validation"])):
            self.reporter.emit(Note(self.stage, "warning", problem))

    def _update(
        self,
        lesson: Phase,
        source: Batches,
        members: Sequence[int],
        plan: Plan,
        optimizer: torch.optim.Optimizer,
        step: int,
    ) -> dict[str, float]:
        """Step the weights by the gradient of a batch, all processes together; its losses."""
        weights, share = self.gradients.weights, self.ranks.share(members)
        parts = self.gradients.add(lesson, source, members, plan, share=share)
        parts = self.ranks.sum_losses(parts, lesson.objective.names)
        weights.sum_gradients()
        _check_finite(parts["loss"], "loss", self.stage, step)
        norm = weights.clip_gradients(self.settings.clip_norm)
        _check_finite(norm, "gradient", self.stage, step)
        optimizer.step()
        weights.clear_gradients()
        return {name: float(value) for name, value in parts.items()}

    def _validation(self) -> dict[str, float]:
        """The scores of the weights as they are, the same in every process."""
        assert self.validate is not None
        model = self.gradients.model
        scores: dict[str, float] = {}
        if self.ranks.first or self.gradients.weights.in_step:
            model.eval()
            with torch.no_grad():
                scores = self.validate()
            model.train()
        return self.ranks.agree(scores)

    def _forecast(self) -> Forecast:
        """Find out what the run will take, and how a batch has to be computed to fit."""
        gradients, batches = self.gradients, self.batches

        def micro_step(number: int, members: Sequence[int], plan: Plan) -> None:
            gradients.add(self.phases[number], batches, members, plan)

        steps: list[int] = []
        side_work: list[SideWork] = []
        for phase in self.phases:
            steps.append(phase.steps(batches))
            if phase.on_policy is not None:
                learn = functools.partial(gradients.add, phase.on_rollouts)
                side_work += phase.on_policy.side_work(steps[-1], learn)
                steps[-1] -= len(phase.on_policy.steps(steps[-1]))
        return forecast(
            micro_step,
            batches,
            self.settings,
            phase_steps=steps,
            weights=gradients.weights,
            model_weights=sum(parameter.numel() for parameter in gradients.model.parameters()),
            device=gradients.precision.device,
            ranks=self.ranks,
            side_work=side_work,
        )


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _check_finite(value: torch.Tensor, what: str, stage: str, step: int) -> None:
    if not torch.isfinite(value):
        raise TrainingError(
            f"{stage}: the {what} is {value.item()} at step {step}",
            hint="lower lr (a third of it), or set dtype: float32",
        )


class _Saver:
    """Saves the state from time to time."""

    def __init__(self, path: Path, interval_s: float, *, has_saved: bool) -> None:
        self.has_saved = has_saved
        self._path = path
        self._interval_s = interval_s
        self._last_s = time.monotonic()

    def is_due(self) -> bool:
        return time.monotonic() - self._last_s >= self._interval_s

    def save(self, position: Position, weights: Weights, optimizer: torch.optim.Optimizer) -> None:
        start_s = time.monotonic()
        save_state(self._path, position, weights=weights, optimizer=optimizer)
        self.has_saved = True
        self._last_s = time.monotonic()
        took_s = self._last_s - start_s
        self._interval_s = max(self._interval_s, took_s / _MAX_SAVING_SHARE)
