"""Trains a student on a teacher's stored distributions, and the SFT control without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ollama_bridge.artifacts import Checkpoint, Corpus, SoftLabels, Work
from ollama_bridge.config import DistillSection, StudentSection
from ollama_bridge.drafts import open_draft
from ollama_bridge.errors import TrainingError
from ollama_bridge.models.forward import CausalModel
from ollama_bridge.models.load import load_model
from ollama_bridge.models.precision import pinned_precision
from ollama_bridge.models.prune import keep_layers
from ollama_bridge.reporting import Note, NullReporter, Reporter, Timed
from ollama_bridge.train.loop import Phase, train
from ollama_bridge.train.material import (
    NOT_IN_KEY,
    complete_checkpoint,
    load_material,
)
from ollama_bridge.train.objective import Objective, Weights
from ollama_bridge.train.soft_targets import open_stores
from ollama_bridge.train.student import chosen_layers, hidden_goals, load_hidden_teacher
from ollama_bridge.train.validation import Validator

STAGE = "distill"
CONTROL_STAGE = "control"


def distill(
    start: Checkpoint,
    corpus: Corpus,
    labels: SoftLabels | None,
    settings: DistillSection,
    *,
    student: StudentSection,
    teacher: Checkpoint | None = None,
    system: str | None,
    task_labels: tuple[str, ...] = (),
    out_dir: Path,
    reporter: Reporter | None = None,
) -> Checkpoint:
    """Train a student.

    First, if asked for, some epochs on the teacher's hidden states alone (the only part that
    loads the teacher), then the KL divergence to the soft labels mixed with the hard labels.
    Without soft labels (``labels=None`` or ``kd_weight: 0``) it is the SFT control: the same
    start, the same loop, hard labels only.

    Args:
        start: Whose weights, or some of whose layers, the student begins with.
        corpus: Training and validation texts.
        labels: The teacher's distributions on this corpus, or None.
        settings: Losses and optimizer.
        student: Which layers of ``start``.
        teacher: For hidden states; not touched otherwise.
        system: System prompt of the task, for the reference values.
        task_labels: Answers of a classification, for the reference values.
        out_dir: Folder of the student's checkpoint.
        reporter: Hears of progress.

    Returns:
        A float32 checkpoint: weights, tokenizer, ``reference.json`` and ``training.json``.

    Raises:
        TrainingError: the soft labels are of another corpus or tokenizer, hidden states are asked
            for without a teacher that fits, or training went wrong.
        ConfigError: the layers do not exist.
        DataError: the corpus has no usable example.
        ModelError: a checkpoint cannot be loaded.
    """
    reporter = reporter or NullReporter()
    kd_weight = settings.kd_weight if labels is not None else 0.0
    used_labels = labels if kd_weight > 0 else None
    hidden = settings.hidden_weight > 0 or settings.hidden_epochs > 0
    if hidden and teacher is None:
        raise TrainingError(
            "hidden-state transfer needs the teacher's weights, and none was given",
            hint="pass teacher=..., or set distill.hidden_weight and distill.hidden_epochs to 0",
        )
    stage = STAGE if used_labels or hidden else CONTROL_STAGE
    effective = {
        **settings.model_dump(mode="json", exclude=set(NOT_IN_KEY)),
        "kd_weight": kd_weight,
    }
    inputs = {"start": start.digest, "corpus": corpus.digest}
    if used_labels is not None:
        inputs["labels"] = used_labels.digest
    if hidden and teacher is not None:
        inputs["teacher"] = teacher.digest
    work = Work(
        kind=Checkpoint.kind,
        stage=stage,
        version=1,
        inputs=inputs,
        settings={
            **effective,
            **student.model_dump(mode="json", include={"layers", "layer_choice"}),
            "system": system,
            "labels": list(task_labels),
        },
        seed=settings.seed,
    )
    with Timed(reporter, stage) as timer, open_draft(out_dir, work) as draft:
        if draft.finished is not None:
            timer.reuse(out_dir)
            return Checkpoint(out_dir, draft.finished)
        precision = pinned_precision(draft.path / "resume-precision.json", settings.dtype)
        material = load_material(start.path, corpus, settings, stage=stage, reporter=reporter)
        stores = open_stores(used_labels, material)
        model: CausalModel = load_model(start.path)
        total = len(model.base_model.layers)
        kept = chosen_layers(student, total)
        if kept != tuple(range(total)):
            model = keep_layers(model, kept)
        if not settings.train_embeddings:
            for matrix in (model.get_input_embeddings(), model.get_output_embeddings()):
                matrix.requires_grad_(False)
        names = ", ".join(map(str, kept))
        reporter.emit(
            Note(stage, "info", f"the student has {len(kept)} of {total} layers: {names}")
        )
        goal = load_hidden_teacher(teacher, model, precision) if hidden and teacher else None
        layer_map = hidden_goals(kept, total, goal) if goal is not None else ()
        answers = Objective(
            model,
            Weights(
                hard=1.0 - kd_weight,
                soft=kd_weight,
                hidden=settings.hidden_weight,
                temperature=settings.temperature,
            ),
            teacher=goal,
            layer_map=layer_map,
        )
        read = stores["train"].read if stores else None
        phases = [Phase("answers", settings.epochs, settings.lr, answers, read)]
        if settings.hidden_epochs > 0:
            transfer = Objective(
                model,
                Weights(hard=0.0, soft=0.0, hidden=1.0),
                teacher=goal,
                layer_map=layer_map,
            )
            phases.insert(0, Phase("hidden", settings.hidden_epochs, settings.lr, transfer))
        result = train(
            model,
            phases,
            material.training,
            settings,
            stage=stage,
            precision=precision,
            state_dir=draft.path,
            reporter=reporter,
            validate=Validator(
                model,
                material.validation,
                precision=precision,
                store=stores.get("validation"),
            ),
        )
        facts: dict[str, Any] = {
            **material.facts,
            "dtype": precision.dtype_name,
            "layers": list(kept),
            "parameters": sum(value.numel() for value in model.parameters()),
        }
        checkpoint = complete_checkpoint(
            draft,
            model,
            material.tokenizer,
            result,
            settings={
                **effective,
                "layers": list(kept),
                "dtype": precision.dtype_name,
                "threads": precision.threads,
            },
            facts=facts,
            system=system,
            labels=task_labels,
            reporter=reporter,
        )
        timer.finish(out_dir, checkpoint.facts)
        return checkpoint
