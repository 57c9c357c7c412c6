"""What a training run needs to go on after a kill, in one file.

``resume.safetensors`` holds the trainable weights, the optimizer's moments and the random
generators; its header holds the position as JSON. It replaces its predecessor in one rename, so a
kill leaves the old state or the new one. No pickle.

``resume-best-STEP.safetensors`` holds the best weights so far, where they are asked for. It may be
ahead of the state: a resumed run comes to that evaluation again, and where other bits decide it
otherwise (on a GPU, in another number of processes), the weights that the state names are there.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ollama_bridge.errors import ArtifactError, DiskFullError
from ollama_bridge.storage.atomic_files import raise_if_disk_full
from ollama_bridge.train.on_policy import Buffer
from ollama_bridge.train.plan import Plan
from ollama_bridge.train.shards import Weights

STATE_NAME = "resume.safetensors"
_BEST_NAME = "resume-best-{}.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass
class Position:
    """How far a run has come.

    Attributes:
        phase: Number of the current phase.
        step: Steps done in it.
        log: Records of the training log so far.
        plan: How a batch is computed: decided once for a number of processes and a kind of device,
            for another split adds up in another order, in the last bits.
        asked: ``micro_batch_tokens`` of the settings that it was decided by.
        processes: For how many it was decided.
        device: For which kind: another one has other room.
        best: Step and validation scores of the best weights; None without an evaluation that
            counts.
        stale: Evaluations since then.
        rollouts: Answers that the student wrote and has not done with: the weights that wrote them
            are gone.
    """

    phase: int = 0
    step: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)
    plan: Plan = field(default_factory=Plan)
    asked: int | None = None
    processes: int = 1
    device: str = "cpu"
    best: dict[str, Any] | None = None
    stale: int = 0
    rollouts: Buffer | None = None


def best_path(folder: Path, step: int) -> Path:
    """Where the weights of an evaluation are kept.

    Args:
        folder: Of the state.
        step: Of the phase that stops early.
    """
    return folder / _BEST_NAME.format(step)


def save_state(
    path: Path,
    position: Position,
    *,
    weights: Weights,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write the state; reading nothing but what it is given, it changes no result.

    All processes of a run come here, and the first one writes.

    Raises:
        DiskFullError: no room; the previous state is kept.
        ArtifactError: the file cannot be written.
    """
    tensors = {"rng.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    elif torch.backends.mps.is_available():
        tensors["rng.mps"] = torch.mps.get_rng_state()
    for name, parameter in weights.parameters.items():
        tensors[f"weight.{name}"] = weights.gathered(name, parameter.detach())
        for moment, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{moment}.{name}"] = weights.gathered(name, value)
    if weights.writes:
        _write(path, tensors, {"position": json.dumps(asdict(position))})
        _forget_others(path.parent, position)


def save_best(path: Path, weights: Weights) -> None:
    """Write the weights alone; all processes of a run come here, and the first one writes.

    Args:
        path: :func:`best_path`, beside the state.
        weights: To be written.

    Raises:
        DiskFullError: no room; those that the state names are kept.
        ArtifactError: the file cannot be written, or the state is damaged.
    """
    tensors = {
        name: weights.gathered(name, parameter.detach())
        for name, parameter in weights.parameters.items()
    }
    if weights.writes:
        _forget_others(path.parent, load_position(path.parent / STATE_NAME))
        _write(path, tensors, {})


def _forget_others(folder: Path, saved: Position | None) -> None:
    """Remove weights that the saved state does not name."""
    named = best_path(folder, saved.best["step"]) if saved and saved.best else None
    for path in folder.glob(_BEST_NAME.format("*")):
        if path != named:
            path.unlink()


def load_best(path: Path, weights: Weights) -> None:
    """Put the best weights back.

    Raises:
        ArtifactError: missing or damaged.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            for name, parameter in weights.parameters.items():
                parameter.data.copy_(weights.own_part(name, file.get_tensor(name)))
    except (SafetensorError, OSError, RuntimeError) as exc:
        raise _damaged(path, str(exc)) from exc


def _write(path: Path, tensors: dict[str, torch.Tensor], header: dict[str, str]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        save_file(tensors, str(temporary), metadata=header)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as exc:
        temporary.unlink(missing_ok=True)
        raise_if_disk_full(exc, path)
        raise
    except SafetensorError as exc:  # the library reports a full disk in words only
        temporary.unlink(missing_ok=True)
        if "No space left" in str(exc) or "os error 28" in str(exc):
            raise DiskFullError(path) from exc
        raise ArtifactError(f"{path} cannot be written: {exc}") from exc


def load_state(path: Path, *, weights: Weights, optimizer: torch.optim.Optimizer) -> None:
    """Put a saved state back into parameters, optimizer and random generators.

    Raises:
        ArtifactError: damaged, or of other parameters.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            names = set(file.keys())
            if {f"weight.{name}" for name in weights.parameters} != {
                name for name in names if name.startswith("weight.")
            }:
                raise _damaged(path, "it holds other weights than this model has")
            torch.set_rng_state(file.get_tensor("rng.cpu"))
            if "rng.cuda" in names and torch.cuda.is_available():
                torch.cuda.set_rng_state(file.get_tensor("rng.cuda"))
            if "rng.mps" in names and torch.backends.mps.is_available():
                torch.mps.set_rng_state(file.get_tensor("rng.mps"))
            for name, parameter in weights.parameters.items():
                # Into the memory that the parameter has: its alignment decides last bits.
                parameter.data.copy_(weights.own_part(name, file.get_tensor(f"weight.{name}")))
                if f"step.{name}" in names:
                    saved = {
                        moment: weights.own_part(name, file.get_tensor(f"{moment}.{name}"))
                        for moment in _MOMENTS
                    }
                    optimizer.state[parameter] = {
                        moment: _own(value, parameter, moment) for moment, value in saved.items()
                    }
    except (SafetensorError, OSError, RuntimeError) as exc:
        raise _damaged(path, str(exc)) from exc


def load_position(path: Path) -> Position | None:
    """How far the saved run had come; None if there is none.

    Raises:
        ArtifactError: damaged, or of another version.
    """
    if not path.exists():
        return None
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads(file.metadata()["position"])
        plan, rollouts = Plan(**header["plan"]), header["rollouts"]
        if rollouts is not None:
            rollouts = Buffer(**rollouts)
        return Position(**{**header, "plan": plan, "rollouts": rollouts})
    except TypeError as exc:
        why = f"another version of ollama-bridge has saved it ({exc})"
        raise _damaged(path, why) from exc
    except (SafetensorError, OSError, KeyError, ValueError) as exc:
        raise _damaged(path, str(exc)) from exc


def _own(tensor: torch.Tensor, parameter: torch.nn.Parameter, moment: str) -> torch.Tensor:
    # Copied off the file's mapping; the fused kernel wants the step where the weights are.
    if moment == "step":
        return tensor.clone().to(parameter.device)
    return torch.empty_like(parameter.data).copy_(tensor)


def _damaged(path: Path, why: str) -> ArtifactError:
    return ArtifactError(
        f"{path} cannot be resumed from: {why}",
        hint=f"start this stage afresh: rm -r {quote(str(path.parent))}",
    )
