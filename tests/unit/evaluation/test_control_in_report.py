"""What the report says that student and control have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fakes.models import build_tiny_checkpoint
from fakes.trainable import LABELS, SYSTEM, commit, tiny_corpus

from ollama_bridge.evaluation.report import read_markdown, render_markdown
from ollama_bridge.evaluation.run import evaluate
from ollama_bridge.recipe.config import EvaluateSection, TaskSection
from ollama_bridge.storage.artifacts import Checkpoint
from ollama_bridge.train.plan import Plan
from ollama_bridge.train.result import TrainingResult

HIDDEN, ANSWERS = {"phase": "hidden", "step": 10}, {"phase": "answers", "step": 30}


def trained(
    folder: Path, log: list[dict[str, Any]], *, lr: float, best: int | None = None
) -> Checkpoint:
    """A checkpoint with the log of its training."""
    kept = None if best is None else {"step": best, "validation": {}}

    def build(path: Path) -> None:
        build_tiny_checkpoint(path, layers=1)
        TrainingResult(log, {}, Plan(), kept, processes=1).write(path, {"lr": lr})

    return commit(Checkpoint, folder, build)


@pytest.mark.parametrize(
    ("log", "best", "lr", "said"),
    [
        ([ANSWERS | {"step": 40}], None, 0.1, "same start and steps, hard labels only."),
        (
            [ANSWERS | {"step": 40}],
            None,
            0.2,
            "same start and steps, hard labels only, 0.2 learning rate (student: 0.1).",
        ),
        (
            [ANSWERS | {"step": 20}, ANSWERS],
            20,
            0.1,
            "same start, hard labels only, 20 steps (student: 40).",
        ),
    ],
    ids=["same", "rate", "stopped"],
)
def test_steps_and_rate_are_those_of_the_logs(
    tmp_path: Path, log: list[dict[str, Any]], best: int | None, lr: float, said: str
) -> None:
    """Each stops early by itself; the student's steps on hidden states count, too."""
    models = {
        "student": trained(tmp_path / "student", [HIDDEN, ANSWERS], lr=0.1),
        "SFT control": trained(tmp_path / "control", log, lr=lr, best=best),
    }
    corpus = tiny_corpus(tmp_path / "corpus")
    task = TaskSection(kind="classify", system=SYSTEM, labels=LABELS)
    settings = EvaluateSection(bootstrap_samples=100)
    report = evaluate(models, corpus, settings, task, out_dir=tmp_path / "report")
    assert f"; SFT control: {said}\n" in read_markdown(report)


@pytest.mark.parametrize(
    ("teacher", "control", "tokens", "is_weak"),
    [
        (9.4, 1.2, 700.0, True),
        (1.25, 1.2, 700.0, False),
        (9.4, 1.2, 800.0, False),
        (9.4, None, 0.0, False),
    ],
    ids=["weak", "as good", "other tokens", "no control"],
)
def test_a_teacher_that_knows_less_than_the_answers_is_told(
    teacher: float, control: float | None, tokens: float, *, is_weak: bool
) -> None:
    """A build of few conversations ends well, with a student that its teacher held back."""
    models: dict[str, dict[str, float]] = {"teacher tuned": {"perplexity": teacher, "tokens": 700}}
    if control is not None:
        models["SFT control"] = {"perplexity": control, "tokens": tokens}
    report = {"title": "chat", "task": "reply", "examples": 78, "teacher": "teacher tuned"}
    told = "The teacher tuned finds the given answers less likely than the SFT control does"
    assert (told in render_markdown({**report, "models": models})) == is_weak
