"""Trains a student on a teacher's stored distributions, and the SFT control without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ollama_bridge.artifacts import Checkpoint, Corpus, SoftLabels, Work
from ollama_bridge.batches import tokenizer_digest
from ollama_bridge.config import DistillSection, StudentSection
from ollama_bridge.drafts import open_draft
from ollama_bridge.errors import TrainingError
from ollama_bridge.labels import LabelStore, read_info
from ollama_bridge.models.forward import CausalModel
from ollama_bridge.models.load import load_model
from ollama_bridge.models.precision import Precision, pinned_precision
from ollama_bridge.models.prune import even_layers, first_layers, keep_layers
from ollama_bridge.reporting import Note, NullReporter, Reporter, Timed
from ollama_bridge.train.loop import Phase, train
from ollama_bridge.train.material import (
    NOT_IN_KEY,
    Material,
    complete_checkpoint,
    load_material,
)
from ollama_bridge.train.objective import Objective, Weights, layer_targets
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
        stores = _open_stores(used_labels, corpus, material)
        model: CausalModel = load_model(start.path)
        total = len(model.base_model.layers)
        kept = _chosen_layers(student, total)
        if kept != tuple(range(total)):
            model = keep_layers(model, kept)
        if not settings.train_embeddings:
            model.get_input_embeddings().requires_grad_(False)
            model.get_output_embeddings().requires_grad_(False)
        if not settings.train_embeddings:
            for matrix in (model.get_input_embeddings(), model.get_output_embeddings()):
                matrix.requires_grad_(False)
        names = ", ".join(map(str, kept))
        reporter.emit(
            Note(stage, "info", f"the student has {len(kept)} of {total} layers: {names}")
        )
        goal = _load_teacher(teacher, model, precision) if hidden else None
        layer_map = _layer_map(kept, total, goal) if goal is not None else ()
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


def _chosen_layers(student: StudentSection, total: int) -> tuple[int, ...]:
    if student.layers is None:
        return tuple(range(total))
    if isinstance(student.layers, int):
        if student.layer_choice == "even":
            return even_layers(student.layers, total)
        return first_layers(student.layers, total)
    return student.layers


def _open_stores(
    labels: SoftLabels | None, corpus: Corpus, material: Material
) -> dict[str, LabelStore]:
    """The soft labels of both splits, after making sure that they belong to what is trained.

    Raises:
        TrainingError: they do not.
    """
    if labels is None:
        return {}
    hint = "label this corpus with this teacher first: ollama-bridge label"
    info = read_info(labels.path)
    if info.corpus != corpus.digest:
        raise TrainingError(
            f"the soft labels in {labels.path} were made on another corpus "
            f"({info.corpus[:12]}, not {corpus.digest[:12]})",
            hint=hint,
        )
    if info.tokenizer != tokenizer_digest(material.tokenizer):
        raise TrainingError(
            f"the soft labels in {labels.path} were made with another tokenizer or chat template "
            "than the student's: their positions and token ids mean other things",
            hint="start the student from layers of the teacher, or from a checkpoint with the "
            "same tokenizer and chat template",
        )
    stores = {name: LabelStore(labels.path, name) for name in ("train", "validation")}
    batches = {"train": material.training, "validation": material.validation}
    for name, store in stores.items():
        counts = store.counts
        for example in batches[name].examples:
            if counts.get(example.row) != len(example.targets):
                raise TrainingError(
                    f"row {example.row} of the {name} split has {len(example.targets)} supervised "
                    f"tokens, the soft labels in {labels.path} have "
                    f"{counts.get(example.row, 'none')}",
                    hint=hint,
                )
    return stores


def _load_teacher(
    teacher: Checkpoint | None, student: CausalModel, precision: Precision
) -> CausalModel:
    if teacher is None:
        raise TrainingError("hidden-state transfer needs the teacher's weights")
    model: CausalModel = load_model(teacher.path)
    model = model.to(precision.device).requires_grad_(False)
    if model.config.hidden_size != student.config.hidden_size:
        raise TrainingError(
            f"hidden states of width {model.config.hidden_size} (teacher) cannot be compared with "
            f"width {student.config.hidden_size} (student)",
            hint="set distill.hidden_weight and distill.hidden_epochs to 0, or make the student "
            "of the teacher's layers",
        )
    return model


def _layer_map(kept: tuple[int, ...], total: int, teacher: CausalModel) -> tuple[int, ...]:
    """The teacher's hidden state that each layer of the student has to reach."""
    teacher_layers = len(teacher.base_model.layers)
    if total != teacher_layers:  # the student is no part of this teacher: spread it evenly
        kept = even_layers(len(kept), teacher_layers)
    return layer_targets(kept, teacher_layers=teacher_layers)
