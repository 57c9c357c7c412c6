"""The recipe deepseek-r1-7b, stage by stage, on its architecture and chat template made small."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.reasoning import build_reasoner
from fakes.trainable import LABELS, SYSTEM, commit

from ollama_bridge.artifacts import Checkpoint, Corpus
from ollama_bridge.config import Recipe, load_recipe
from ollama_bridge.conversion import convert
from ollama_bridge.evaluation.run import evaluate
from ollama_bridge.models.reference_values import with_reference_values
from ollama_bridge.pipeline import control_settings
from ollama_bridge.rendering import render
from ollama_bridge.teacher.local import label
from ollama_bridge.train.distill import distill
from ollama_bridge.train.finetune import finetune

SMALL = (
    "distill.epochs=1",
    "distill.lr=1e-3",
    "distill.dtype=float32",
    "teacher.tune.dtype=float32",
    "teacher.tune.lora.r=4",
    "evaluate.bootstrap_samples=100",
)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """The shipped recipe with less to do."""
    return load_recipe("deepseek-r1-7b", overrides=SMALL)


def reasoner(folder: Path, *, layers: int) -> Checkpoint:
    sizes = {"num_hidden_layers": layers, "vocab_size": 400}
    return commit(
        Checkpoint, folder, lambda path: build_reasoner(path, sizes=sizes), name=str(layers)
    )


@pytest.mark.usefixtures("no_reference_values")
def test_every_stage_runs_on_a_small_reasoner(
    recipe: Recipe, corpus: Corpus, tmp_path: Path
) -> None:
    """Tuned teacher, soft labels, trimmed student, control, scores, GGUF and Modelfile."""
    assert recipe.teacher.tune is not None
    task = recipe.task.model_copy(update={"system": SYSTEM, "labels": LABELS})
    tuned = finetune(
        reasoner(tmp_path / "7b", layers=3),
        corpus,
        recipe.teacher.tune,
        system=SYSTEM,
        labels=LABELS,
        out_dir=tmp_path / "tuned",
    )
    assert tuned.facts["train_supervised_tokens"] > 0
    labels = label(
        tuned,
        corpus,
        recipe.soft_labels,
        max_length=recipe.distill.max_length,
        dtype="float32",
        out_dir=tmp_path / "labels",
    )
    start = reasoner(tmp_path / "1.5b", layers=2)
    scored = {"teacher": tuned}
    for name, settings in {
        "student": recipe.distill,
        "SFT control": control_settings(recipe),
    }.items():
        scored[name] = distill(
            start,
            corpus,
            labels if name == "student" else None,
            settings,
            student=recipe.student,
            system=SYSTEM,
            task_labels=LABELS,
            out_dir=tmp_path / name,
        )
    student = scored["student"]
    assert student.facts["vocabulary_size"] < 380
    report = evaluate(scored, corpus, recipe.evaluate, task, out_dir=tmp_path / "report")
    assert report.manifest.files
    exported = with_reference_values(student, system=SYSTEM, out_dir=tmp_path / "exported")
    for gguf_type in recipe.export.types:
        gguf = convert(exported, type=gguf_type, out_dir=tmp_path / gguf_type)
        modelfile = render(gguf, settings=recipe.modelfile, system=SYSTEM)
        assert modelfile.parameters["num_predict"] == 64
