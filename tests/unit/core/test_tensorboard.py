"""Events as TensorBoard reads them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ollama_bridge.cli.tensorboard import TensorBoardReporter
from ollama_bridge.errors import MissingExtraError
from ollama_bridge.reporting import Metric, Note, Progress


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(event.step, pytest.approx(event.value)) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_losses_and_scores_are_scalars_of_their_stage(tmp_path: Path) -> None:
    """Every step's numbers, and every evaluation's; what was told twice is written once."""
    with TensorBoardReporter(tmp_path) as reporter:
        for step in (1, 2):
            reporter.emit(Progress("distill", step, 2, "steps", {"loss": 1 / step, "tok_s": 100.0}))
        reporter.emit(Metric("distill", 2, {"loss": 0.5, "validation_exact": 0.75}))
        reporter.emit(Note("distill", "info", "a sentence is no scalar"))
    assert scalars(tmp_path) == {
        "distill/loss": [(1, 1.0), (2, 0.5)],
        "distill/tok_s": [(1, 100.0), (2, 100.0)],
        "distill/validation_exact": [(2, 0.75)],
    }


def test_missing_tensorboard_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError) as caught:
        TensorBoardReporter(tmp_path)
    assert caught.value.hint == "pip install 'ollama-bridge[tensorboard]'"
