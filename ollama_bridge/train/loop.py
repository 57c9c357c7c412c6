"""The one training loop: fine-tuning, distillation and the SFT control all run through it.

After ``kill -9`` the same call gives bitwise the weights of an unbroken run: the order of the
data comes from (seed, phase, epoch), the state is saved whole and in one rename, and *when* it is
saved changes nothing. What may differ between two runs (compute type, threads, how a batch is split
to fit) is pinned by the caller (``models.precision``) or in the state, the last of them unless the
settings of the resumed run say otherwise: who was out of memory goes on with smaller parts, and who
asks for larger ones than before with those that are found to fit. The weights of the last step are
the result, for the rate has fallen to 0 by then; with ``early_stopping`` it is those of the best
evaluation. Several processes (``train.ranks``) take every step together.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ollama_bridge.artifacts import write_text_atomic
from ollama_bridge.batches import Batch, Batches
from ollama_bridge.config import OptimizerSection
from ollama_bridge.errors import TrainingError
from ollama_bridge.labels import Targets
from ollama_bridge.models.forward import (
    CausalModel,
    activation_checkpointing,
    training_attention,
)
from ollama_bridge.models.fused_norms import fused_norms
from ollama_bridge.models.fused_rotation import fused_rotation
from ollama_bridge.models.gated_activations import lean_activations
from ollama_bridge.models.memory import PeakMemory, memory_is_enough
from ollama_bridge.models.precision import Precision, random_numbers_aside
from ollama_bridge.reporting import Note, Reporter, StageStarted
from ollama_bridge.train.fit import Forecast, SideWork, check_disk, forecast
from ollama_bridge.train.meter import Meter
from ollama_bridge.train.on_policy import PREFIX
from ollama_bridge.train.optimizer import lr_at, make_optimizer, trainable_parameters
from ollama_bridge.train.phase import Phase
from ollama_bridge.train.plan import Plan, less_memory
from ollama_bridge.train.ranks import Ranks
from ollama_bridge.train.shards import ShardedWeights, Weights
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

LOG_NAME = "training.json"

# Saving may take this share of the time; where the disk is slow, states are saved less often.
_MAX_SAVING_SHARE = 0.05
# Points of the loss curve that are kept of one phase.
_CURVE_POINTS = 200
# Looks at the memory that steps hold: many in a step of any size, and no work to speak of.
_MEMORY_INTERVAL_S = 0.02

Validation = Callable[[], dict[str, float]]


@dataclass(frozen=True)
class TrainingResult:
    """What the loop has to say of a finished run.

    Attributes:
        log: Losses and validation scores, in order; the same for every run of the same work.
        facts: Time, speed and memory of this process.
        plan: How batches were computed.
        best: Step and validation scores of the weights that were kept; None: the last ones were.
        processes: How many computed it.
    """

    log: list[dict[str, Any]]
    facts: dict[str, float]
    plan: Plan
    best: dict[str, Any] | None
    processes: int

    @property
    def validation(self) -> dict[str, float]:
        """Scores of the weights that are the result; empty without validation."""
        if self.best is not None:
            return dict(self.best["validation"])
        scores = [entry["validation"] for entry in self.log if "validation" in entry]
        return dict(scores[-1]) if scores else {}

    def write(self, folder: Path, settings: dict[str, Any]) -> None:
        """Write ``training.json``: the settings in effect, the log, and what was chosen."""
        chosen: dict[str, Any] = {}
        if self.processes > 1:
            chosen["processes"] = self.processes
        if self.plan != Plan():
            chosen["plan"] = asdict(self.plan)
        if self.best is not None:
            chosen["best"] = self.best
        text = json.dumps({"settings": settings, **chosen, "log": self.log}, indent=1)
        write_text_atomic(folder / LOG_NAME, text + "\n")


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
    model.to(precision.device)
    parameters = trainable_parameters(model)
    for parameter in model.parameters():
        # Weights that were mapped from a file lie at odd addresses, and that decides last bits.
        parameter.data = parameter.data.clone()
    ranks = Ranks.current()
    # Of frozen ones too: a start that each process computed (PiSSA, a cut) differs in last bits.
    ranks.copy_from_first(model.parameters())
    weights = Weights(parameters, ranks)
    if settings.shard_layers and ranks.size > 1:
        weights = ShardedWeights(model, parameters, ranks)
    state_path = state_dir / STATE_NAME
    saved = ranks.agree(load_position(state_path) if ranks.first else None)
    position = saved or Position()
    totals = [phase.steps(batches) for phase in phases]
    if saved is not None:
        done = sum(totals[: position.phase]) + position.step
        reporter.emit(StageStarted(stage, resumed_from=done))
    if advice := ranks.advice_on_threads(precision):
        reporter.emit(Note(stage, "warning", advice))
    saver = _Saver(state_path, settings.checkpoint_interval_s)
    section = settings.early_stopping
    early = None if section is None else Stopping(section, score)
    written = [phase.on_policy for phase in phases if phase.on_policy is not None]
    longest = max([batches.longest, *(one.longest for one in written)])

    with (
        random_numbers_aside(precision.device),
        training_attention(model, longest=longest),
        fused_norms(model),
        fused_rotation(model),
        lean_activations(model),
        PeakMemory(precision.device, interval_s=_MEMORY_INTERVAL_S) as memory,
        contextlib.ExitStack() as inside,
    ):
        model.train()
        grows = Plan(**position.plan).has_to_grow(settings, position.asked)
        if saved is None or saved.processes != ranks.size or grows:
            needs = _forecast(model, weights, phases, batches, settings, precision, ranks)
            reporter.emit(Note(stage, "info", needs.sentence))
            if saved is None and ranks.first:
                check_disk(state_dir, needs.disk_bytes)
            position.plan, position.processes = asdict(needs.plan), ranks.size
        plan = Plan(**position.plan).changed_by(settings)
        position.plan, position.asked = asdict(plan), settings.micro_batch_tokens
        if saved is not None and (grows or plan != Plan()):
            reporter.emit(Note(stage, "info", plan.sentence(settings)))
        hint = less_memory(settings, plan, longest=batches.longest)
        inside.enter_context(memory_is_enough(hint))
        meter = Meter(stage, sum(totals), reporter, memory)
        torch.manual_seed(settings.seed)
        for number, phase in enumerate(phases):
            if number < position.phase:
                continue
            optimizer = make_optimizer(weights.parameters, settings)
            if saved is not None and number == saved.phase:
                load_state(state_path, weights=weights, optimizer=optimizer)
            else:
                position.phase, position.step, position.rollouts = number, 0, None
            on_policy = phase.on_policy
            rollout_steps: frozenset[int] = frozenset()
            if on_policy is not None:
                on_policy.restore(position.rollouts)
                rollout_steps = on_policy.steps(totals[number])
            done_before, steps = sum(totals[:number]), totals[number]
            stopping = early if number + 1 == len(phases) else None
            every = stopping.interval(len(batches)) if stopping else len(batches)
            order: list[tuple[int, ...]] = []
            while position.step < steps:
                epoch, index = divmod(position.step, len(batches))
                if not order or index == 0:
                    order = batches.order(seed=settings.seed, epoch=number * 1000 + epoch)
                lr = lr_at(
                    position.step,
                    steps=steps,
                    peak=phase.lr,
                    warmup=settings.warmup,
                    schedule=settings.schedule,
                )
                for group in optimizer.param_groups:
                    group["lr"] = lr

                if not ranks.first:  # the first one's generator is saved, the others' need not be
                    torch.manual_seed(_seed(settings.seed, ranks.rank, number, position.step))
                lesson, source, members = phase, batches, order[index]
                if on_policy is not None and position.step in rollout_steps:
                    lesson = phase.on_rollouts
                    source, members = on_policy.lesson(position.step, ranks)
                    position.rollouts = on_policy.state
                share = ranks.share(members)
                parts = _gradient(model, lesson, source, share, members, plan, precision, weights)
                parts = ranks.sum_losses(parts, lesson.objective.names)
                weights.sum_gradients()
                step = done_before + position.step + 1
                _check_finite(parts["loss"], "loss", stage, step)
                norm = weights.clip_gradients(settings.clip_norm)
                _check_finite(norm, "gradient", stage, step)
                optimizer.step()
                weights.clear_gradients()
                position.step += 1

                losses = {name: float(value) for name, value in parts.items()}
                if on_policy is not None and lesson is not phase:
                    losses = {PREFIX + name: value for name, value in losses.items()}
                    losses |= on_policy.scores()
                meter.step(step, source.tokens(members), {**losses, "lr": lr})
                ended = position.step == steps or position.step % len(batches) == 0
                evaluated = validate is not None and (ended or position.step % every == 0)
                if ended or evaluated or position.step % max(1, steps // _CURVE_POINTS) == 0:
                    entry: dict[str, Any] = {"phase": phase.name, "step": position.step, **losses}
                    if evaluated and validate is not None:
                        validates = ranks.first or weights.in_step
                        scores = _validated(model, validate) if validates else {}
                        entry["validation"] = ranks.agree(scores)
                    position.log.append(entry)
                    meter.record(step, entry)
                if evaluated and stopping is not None:
                    if stopping.is_best(position, entry):
                        save_best(best_path(state_dir, position.step), weights)
                    if stopping.is_over(position):
                        break
                if position.step < steps and ranks.agree(saver.is_due()):
                    saver.save(position, weights, optimizer)
            # A phase that is over must not be trained again, however short the next one is.
            if number + 1 < len(phases):
                saver.save(position, weights, optimizer)
    if position.best is not None:
        ranks.wait()
        load_best(best_path(state_dir, position.best["step"]), weights)
        reporter.emit(Note(stage, "info", f"kept the weights of step {position.best['step']}"))
        if early is not None and (problem := early.problem(position.best["validation"])):
            reporter.emit(Note(stage, "warning", problem))
    weights.put_back()
    model.eval()
    facts = meter.facts()
    for one in written:
        facts |= one.facts()
    return TrainingResult(position.log, facts, plan, position.best, ranks.size)


def _gradient(
    model: CausalModel,
    phase: Phase,
    batches: Batches,
    members: Sequence[int],
    whole: Sequence[int],
    plan: Plan,
    precision: Precision,
    weights: Weights,
) -> dict[str, torch.Tensor]:
    """Add what some members of a batch give to its gradient, part by part, and to its losses."""
    parts = [tuple(members)] if members else []
    if plan.micro_batch_tokens is not None:
        parts = batches.split(members, plan.micro_batch_tokens)
    idle = weights.passes(len(parts)) - len(parts)
    sums: dict[str, torch.Tensor] = {}
    # One autocast around all parts: what it has cast of the weights serves each of them.
    with (
        activation_checkpointing(model, enabled=plan.activation_checkpointing),
        precision.autocast(),
    ):
        for part in parts:
            batch = batches.collate(part, whole=whole).to(precision.device)
            losses = phase.objective(batch, _soft_targets(phase, batch, batches, precision))
            with precision.no_autocast():
                losses.total.backward()  # type: ignore[no-untyped-call]
            for name, value in losses.parts.items():
                sums[name] = sums[name] + value if name in sums else value
        for _ in range(idle):  # layers are put together only where all come to them
            batch = batches.collate(tuple(whole[:1]), whole=whole).to(precision.device)
            losses = phase.objective(batch, _soft_targets(phase, batch, batches, precision))
            with precision.no_autocast():
                (0.0 * losses.total).backward()  # type: ignore[no-untyped-call]
    return sums


def _forecast(
    model: CausalModel,
    weights: Weights,
    phases: Sequence[Phase],
    batches: Batches,
    settings: OptimizerSection,
    precision: Precision,
    ranks: Ranks,
) -> Forecast:
    """Find out what the run will take, and how a batch has to be computed to fit."""

    def micro_step(phase: int, members: Sequence[int], plan: Plan) -> None:
        _gradient(model, phases[phase], batches, members, members, plan, precision, weights)

    steps: list[int] = []
    side_work: list[SideWork] = []
    for phase in phases:
        steps.append(phase.steps(batches))
        if phase.on_policy is not None:
            side_work += _side_work(model, phase, steps[-1], precision, weights)
            steps[-1] -= len(phase.on_policy.steps(steps[-1]))
    return forecast(
        micro_step,
        batches,
        settings,
        phase_steps=steps,
        weights=weights,
        model_weights=sum(parameter.numel() for parameter in model.parameters()),
        device=precision.device,
        ranks=ranks,
        side_work=side_work,
    )


def _side_work(
    model: CausalModel, phase: Phase, steps: int, precision: Precision, weights: Weights
) -> list[SideWork]:
    def learn(source: Batches, members: Sequence[int], plan: Plan) -> None:
        _gradient(model, phase.on_rollouts, source, members, members, plan, precision, weights)

    assert phase.on_policy is not None
    return phase.on_policy.side_work(steps, learn)


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _soft_targets(
    phase: Phase, batch: Batch, batches: Batches, precision: Precision
) -> Targets | None:
    if phase.soft_labels is None:
        return None
    rows = [batches.examples[member].row for member in batch.members]
    return phase.soft_labels(rows).to(precision.device)


def _validated(model: CausalModel, validate: Validation) -> dict[str, float]:
    model.eval()
    with torch.no_grad():
        scores = validate()
    model.train()
    return scores


def _check_finite(value: torch.Tensor, what: str, stage: str, step: int) -> None:
    if not torch.isfinite(value):
        raise TrainingError(
            f"{stage}: the {what} is {value.item()} at step {step}",
            hint="lower lr (a third of it), or set dtype: float32",
        )


class _Saver:
    """Saves the state from time to time."""

    def __init__(self, path: Path, interval_s: float) -> None:
        self._path = path
        self._interval_s = interval_s
        self._last_s = time.monotonic()

    def is_due(self) -> bool:
        return time.monotonic() - self._last_s >= self._interval_s

    def save(self, position: Position, weights: Weights, optimizer: torch.optim.Optimizer) -> None:
        start_s = time.monotonic()
        save_state(self._path, position, weights=weights, optimizer=optimizer)
        self._last_s = time.monotonic()
        took_s = self._last_s - start_s
        self._interval_s = max(self._interval_s, took_s / _MAX_SAVING_SHARE)
