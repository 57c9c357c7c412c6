"""The one training loop: fine-tuning, distillation and the SFT control all run through it.

After ``kill -9`` the same call gives bitwise the weights of an unbroken run: the order of the
data comes from (seed, phase, epoch), the state is saved whole and in one rename, and *when* it is
saved changes nothing. What may differ between two runs (compute type, threads) is pinned by the
caller (``models.precision``). The weights of the last step are the result: the rate has fallen to
0 by then, and every epoch's validation scores are in the log for who wants fewer epochs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from ollama_bridge.artifacts import write_text_atomic
from ollama_bridge.batches import Batch, Batches
from ollama_bridge.config import OptimizerSection
from ollama_bridge.errors import TrainingError
from ollama_bridge.labels import Targets
from ollama_bridge.models.forward import CausalModel, training_attention
from ollama_bridge.models.precision import Precision
from ollama_bridge.reporting import Metric, Progress, Reporter, StageStarted
from ollama_bridge.train.objective import Objective
from ollama_bridge.train.optimizer import lr_at, make_optimizer, trainable_parameters
from ollama_bridge.train.state import STATE_NAME, Position, load_position, load_state, save_state

LOG_NAME = "training.json"

# Saving may take this share of the time; where the disk is slow, states are saved less often.
_MAX_SAVING_SHARE = 0.05
# Points of the loss curve that are kept of one phase.
_CURVE_POINTS = 200

SoftReader = Callable[[Sequence[int]], Targets]
Validation = Callable[[], dict[str, float]]


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one objective and one course of the learning rate.

    Attributes:
        name: For the log.
        epochs: Passes over the data; 1.5 is possible.
        lr: Peak learning rate.
        objective: What is minimised.
        soft_labels: Reads the soft labels of a batch's members; None where there are none.
    """

    name: str
    epochs: float
    lr: float
    objective: Objective
    soft_labels: SoftReader | None = None

    def steps(self, batches: Batches) -> int:
        """How many steps it has."""
        return max(1, round(self.epochs * len(batches)))


@dataclass(frozen=True)
class TrainingResult:
    """What the loop has to say of a finished run.

    Attributes:
        log: Losses and validation scores, in order; the same for every run of the same work.
        facts: Time, speed and memory of this process.
    """

    log: list[dict[str, Any]]
    facts: dict[str, float]

    @property
    def last_validation(self) -> dict[str, float]:
        """Scores at the end of the last epoch; empty without validation."""
        scores = [entry["validation"] for entry in self.log if "validation" in entry]
        return dict(scores[-1]) if scores else {}

    def write(self, folder: Path, settings: dict[str, Any]) -> None:
        """Write ``training.json``: the settings in effect and the log."""
        text = json.dumps({"settings": settings, "log": self.log}, indent=1)
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
) -> TrainingResult:
    """Train the parameters of ``model`` that require a gradient, in place.

    Args:
        model: float32, on the CPU.
        phases: One after another; each begins with a new optimizer.
        batches: Training data.
        settings: Optimizer, schedule, seed. ``epochs`` and ``lr`` are the phases'.
        stage: For events and messages.
        precision: Device and compute type.
        state_dir: Where ``resume.safetensors`` is kept; found there, training goes on.
        reporter: Hears of progress.
        validate: Called at the end of every epoch, without gradient and in evaluation mode.

    Raises:
        TrainingError: the loss or gradient is not a number any more.
        ArtifactError: the saved state is damaged.
    """
    model.to(precision.device)
    parameters = trainable_parameters(model)
    for parameter in model.parameters():
        # Weights that were mapped from a file lie at odd addresses, and that decides last bits.
        parameter.data = parameter.data.clone()
    state_path = state_dir / STATE_NAME
    saved = load_position(state_path)
    position = saved or Position()
    totals = [phase.steps(batches) for phase in phases]
    meter = _Meter(stage, sum(totals), reporter)
    if saved is not None:
        done = sum(totals[: position.phase]) + position.step
        reporter.emit(StageStarted(stage, resumed_from=done))
    saver = _Saver(state_path, settings.checkpoint_interval_s)

    with torch.random.fork_rng(), training_attention(model, longest=batches.longest):
        torch.manual_seed(settings.seed)
        model.train()
        for number, phase in enumerate(phases):
            if number < position.phase:
                continue
            optimizer = make_optimizer(parameters, settings)
            if saved is not None and number == saved.phase:
                load_state(state_path, parameters=parameters, optimizer=optimizer)
            else:
                position.phase, position.step = number, 0
            done_before, steps = sum(totals[:number]), totals[number]
            order: list[tuple[int, ...]] = []
            while position.step < steps:
                epoch, index = divmod(position.step, len(batches))
                if not order or index == 0:
                    order = batches.order(seed=settings.seed, epoch=number * 1000 + epoch)
                batch = batches.collate(order[index]).to(precision.device)
                soft = _soft_targets(phase, batch, batches, precision)
                lr = lr_at(
                    position.step,
                    steps=steps,
                    peak=phase.lr,
                    warmup=settings.warmup,
                    schedule=settings.schedule,
                )
                for group in optimizer.param_groups:
                    group["lr"] = lr

                with precision.autocast():
                    losses = phase.objective(batch, soft)
                _check_finite(losses.total, "loss", stage, done_before + position.step + 1)
                losses.total.backward()  # type: ignore[no-untyped-call]
                norm = torch.nn.utils.clip_grad_norm_(parameters.values(), settings.clip_norm)
                _check_finite(norm, "gradient", stage, done_before + position.step + 1)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                position.step += 1

                parts = {name: float(value) for name, value in losses.parts.items()}
                meter.step(done_before + position.step, batch.tokens, {**parts, "lr": lr})
                ended = position.step == steps or position.step % len(batches) == 0
                if ended or position.step % max(1, steps // _CURVE_POINTS) == 0:
                    entry: dict[str, Any] = {"phase": phase.name, "step": position.step, **parts}
                    if ended and validate is not None:
                        entry["validation"] = _validated(model, validate)
                    position.log.append(entry)
                    meter.record(done_before + position.step, entry)
                if position.step < steps:
                    saver.save_if_due(position, parameters, optimizer)
            # A phase that is over must not be trained again, however short the next one is.
            if number + 1 < len(phases):
                saver.save(position, parameters, optimizer)
    model.eval()
    return TrainingResult(position.log, meter.facts())


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

    def save_if_due(
        self,
        position: Position,
        parameters: dict[str, torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
    ) -> None:
        if time.monotonic() - self._last_s >= self._interval_s:
            self.save(position, parameters, optimizer)

    def save(
        self,
        position: Position,
        parameters: dict[str, torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
    ) -> None:
        start_s = time.monotonic()
        save_state(self._path, position, parameters=parameters, optimizer=optimizer)
        self._last_s = time.monotonic()
        took_s = self._last_s - start_s
        self._interval_s = max(self._interval_s, took_s / _MAX_SAVING_SHARE)


class _Meter:
    """Turns steps into events, and into the facts at the end."""

    def __init__(self, stage: str, steps: int, reporter: Reporter) -> None:
        self._stage = stage
        self._steps = steps
        self._reporter = reporter
        self._start_s = time.monotonic()
        self._tokens = 0
        self._peak_bytes = 0
        self._process = psutil.Process()

    def step(self, done: int, tokens: int, values: dict[str, float]) -> None:
        self._tokens += tokens
        memory_bytes = self._process.memory_info().rss
        if torch.cuda.is_available():
            memory_bytes = torch.cuda.max_memory_allocated()
        self._peak_bytes = max(self._peak_bytes, memory_bytes)
        fields = {**values, "tok_s": self._speed(), "memory_mb": memory_bytes / 1e6}
        self._reporter.emit(Progress(self._stage, done, self._steps, "steps", fields))

    def record(self, done: int, entry: dict[str, Any]) -> None:
        values = {name: value for name, value in entry.items() if isinstance(value, float)}
        validation = entry.get("validation", {})
        values |= {f"validation_{name}": value for name, value in validation.items()}
        self._reporter.emit(Metric(self._stage, done, values))

    def facts(self) -> dict[str, float]:
        return {
            "tokens_per_s": round(self._speed(), 1),
            "peak_memory_mb": round(self._peak_bytes / 1e6, 1),
            "training_s": round(time.monotonic() - self._start_s, 1),
        }

    def _speed(self) -> float:
        return self._tokens / max(1e-9, time.monotonic() - self._start_s)
