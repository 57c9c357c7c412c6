"""A training process that is killed, and started again."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.listening import Listener

from ollama_bridge.recipe.config import (
    DistillSection,
    EarlyStoppingSection,
    OnPolicySection,
    StudentSection,
)
from ollama_bridge.reporting import Progress
from ollama_bridge.storage.artifacts import Checkpoint, Corpus, SoftLabels
from ollama_bridge.train import distill as distill_module
from ollama_bridge.train.distill import distill
from ollama_bridge.train.result import LOG_NAME

# Prints every step, and waits behind one of them to be killed.
PROGRAM = """
import sys
from pathlib import Path
import torch
from ollama_bridge.storage.artifacts import Checkpoint, Corpus, SoftLabels
from ollama_bridge.recipe.config import DistillSection, OnPolicySection, StudentSection
from ollama_bridge.reporting import Progress
from ollama_bridge.train import loop
from ollama_bridge.train.distill import distill

torch.set_num_threads(1)
loop._MAX_SAVING_SHARE = float("inf")

class Printer:
    def emit(self, event):
        if isinstance(event, Progress) and event.unit == "steps":
            print(event.done, flush=True)
            if event.done == int(kill_at):
                sys.stdin.read()

base, corpus, labels, out_dir, settings, kill_at = sys.argv[1:]
distill(
    Checkpoint.open(base), Corpus.open(corpus), SoftLabels.open(labels),
    DistillSection.model_validate_json(settings), student=StudentSection(layers=2),
    teacher=Checkpoint.open(base), system=None, out_dir=Path(out_dir), reporter=Printer(),
)
"""

SETTINGS = DistillSection(
    epochs=2,
    hidden_epochs=1,
    batch_tokens=200,
    lr=1e-2,
    dtype="bfloat16",
    checkpoint_interval_s=1e-9,
)
ON_POLICY = SETTINGS.model_copy(
    update={
        "kd_weight": 0.0,
        "on_policy": OnPolicySection(buffer=8, reuse=2, max_new_tokens=12, share=0.8),
    }
)

REPEATED = SETTINGS.model_copy(
    update={"epochs": 0.5, "min_steps": 40, "early_stopping": EarlyStoppingSection(patience=99)}
)

pytestmark = pytest.mark.usefixtures("no_reference_values")


@pytest.mark.parametrize(
    ("settings", "kill_at"),
    [(SETTINGS, 14), (ON_POLICY, 14), (REPEATED, 30)],
    ids=["labels", "on_policy", "min_steps"],
)
def test_sigkill_costs_time_and_no_bit(
    talker: Checkpoint,
    corpus: Corpus,
    labels: SoftLabels,
    tmp_path: Path,
    settings: DistillSection,
    kill_at: int,
) -> None:
    """After SIGKILL in mid-distillation the same call gives bitwise the unbroken weights."""
    command = [sys.executable, "-c", PROGRAM]
    command += [str(artifact.path) for artifact in (talker, corpus, labels)]
    command += [str(tmp_path / "student"), settings.model_dump_json(), str(kill_at)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == kill_at:
                process.kill()
                break
        assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "student").exists()

    listener = Listener()
    resumed, whole = (
        distill(
            talker,
            corpus,
            labels,
            settings.model_copy(update={"checkpoint_interval_s": 1e9}),
            student=StudentSection(layers=2),
            teacher=talker,
            system=None,
            out_dir=tmp_path / name,
            reporter=listener,
        )
        for name in ("student", "whole")
    )
    # Whether the last state was saved before the kill.
    assert max(listener.resumed_from) in (kill_at - 1, kill_at)
    resumed = Checkpoint.open(resumed.path, verify_digests=True)
    assert resumed.digest == whole.digest
    assert LOG_NAME in resumed.manifest.files


@pytest.mark.parametrize("settings", [SETTINGS, ON_POLICY], ids=["labels", "on_policy"])
def test_what_is_trained_is_not_trained_again(
    talker: Checkpoint,
    corpus: Corpus,
    labels: SoftLabels,
    tmp_path: Path,
    settings: DistillSection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Behind the last step a checkpoint takes its time; a stop there costs that alone."""

    def student(name: str, listener: Listener) -> Checkpoint:
        return distill(
            talker,
            corpus,
            labels,
            settings,
            student=StudentSection(layers=2),
            teacher=talker,
            system=None,
            out_dir=tmp_path / name,
            reporter=listener,
        )

    whole, stopped, resumed = Listener(), Listener(), Listener()
    expected = student("whole", whole)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(distill_module, "complete_checkpoint", interrupted)
        student("student", stopped)
    assert student("student", resumed).digest == expected.digest
    assert steps_of(stopped) == steps_of(whole)
    assert steps_of(resumed) == 0


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def steps_of(listener: Listener) -> int:
    return sum(isinstance(event, Progress) and event.unit == "steps" for event in listener.events)
