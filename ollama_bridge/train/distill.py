"""Trains a student on a teacher, stored or live, and the SFT control without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from ollama_bridge.encoding.end_keys import key_of_ends, key_of_matched_ends
from ollama_bridge.encoding.row_dates import key_of_dates
from ollama_bridge.errors import TrainingError
from ollama_bridge.examples import read_examples
from ollama_bridge.models.compute.forward import CausalModel
from ollama_bridge.models.compute.memory import memory_is_enough
from ollama_bridge.models.compute.precision import Precision
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.models.pruning.tokens import keep_tokens
from ollama_bridge.recipe.config import DistillSection, StudentSection
from ollama_bridge.recipe.losses import JensenShannonLoss, KLSkewedLoss, TotalVariationLoss
from ollama_bridge.reference import NOISE_TYPES
from ollama_bridge.reporting import Note, NullReporter, Reporter, Timed
from ollama_bridge.storage.artifacts import Checkpoint, Corpus, SoftLabels, Work
from ollama_bridge.train.corpus_vocabulary import corpus_vocabulary
from ollama_bridge.train.live_teacher import LiveTeacher, load_live_teacher
from ollama_bridge.train.loop import train
from ollama_bridge.train.losses.objectives import Objectives, make_objectives, reads_attention
from ollama_bridge.train.losses.projections import trained_with
from ollama_bridge.train.material import (
    Material,
    complete_checkpoint,
    key_settings,
    load_material,
)
from ollama_bridge.train.on_policy import OnPolicy
from ollama_bridge.train.phase import Phase
from ollama_bridge.train.plan import less_memory
from ollama_bridge.train.ranks import Ranks
from ollama_bridge.train.result import TrainingResult
from ollama_bridge.train.soft_targets import SplitLabels, open_stores
from ollama_bridge.train.stopping import (
    answers_of_task,
    key_of_last_answers,
    score_of_task,
)
from ollama_bridge.train.student import Parts, cut_student
from ollama_bridge.train.teacher_rows import TeacherRows, read_teacher_rows, reads_own_tokens
from ollama_bridge.train.validation import Validator

STAGE = "distill"
CONTROL_STAGE = "control"

_MIXED = (KLSkewedLoss, JensenShannonLoss, TotalVariationLoss)


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
    noise_types: Sequence[str] = NOISE_TYPES,
    out_dir: Path,
    reporter: Reporter | None = None,
) -> Checkpoint:
    """Train a student.

    First, if asked for, some epochs on the teacher's hidden states alone, then the weighted sum of
    ``settings.loss_terms``: losses against the teacher's distributions (stored soft labels, or all
    of them from a teacher that runs beside the student), against its layers, and hard labels.
    With ``settings.on_policy`` some of the steps learn from what the student writes instead.
    Without soft labels the short form (``kd_weight``) is the SFT control: the same start, the same
    loop, hard labels only.

    Args:
        start: Whose weights, or some of whose layers, the student begins with.
        corpus: Training and validation texts.
        labels: The teacher's distributions on this corpus; read where ``settings`` say ``stored``.
        settings: Losses and optimizer.
        student: Which parts of ``start``.
        teacher: Loaded for hidden states, attention maps, rollouts and ``live``; not touched
            otherwise.
        system: System prompt of the task, for the reference values.
        task_labels: Answers of a classification, for the reference values.
        noise_types: Of ``reference.NOISE_TYPES``, those whose noise the reference values estimate:
            of the files that will be made of it. Of others it is estimated when one is packaged.
        out_dir: Folder of the student's checkpoint.
        reporter: Hears of progress.

    Returns:
        A float32 checkpoint: weights, tokenizer, ``reference.json`` and ``training.json``.

    Raises:
        TrainingError: the soft labels are of another corpus or tokenizer, what a loss needs of the
            teacher was not given or does not fit, or training went wrong.
        ConfigError: the layers do not exist.
        DataError: the corpus has no usable example.
        ModelError: a checkpoint cannot be loaded, or does not fit into memory.
    """
    ranks = Ranks.current()
    reporter = ranks.reporter(reporter or NullReporter())
    settings = _settings_in_effect(settings, labels, teacher)
    labels = labels if settings.reads_soft_labels else None
    teacher = teacher if settings.loads_teacher else None
    reads_own = teacher is not None and reads_own_tokens(teacher, start, settings)
    work = _work(
        start,
        corpus,
        labels,
        settings,
        student=student,
        teacher=teacher,
        reads_own=reads_own,
        system=system,
        task_labels=task_labels,
    )
    stage = work.stage
    with (
        Timed(reporter, stage) as timer,
        ranks.open_draft(out_dir, work, reporter) as draft,
        memory_is_enough(less_memory(settings)),
    ):
        if draft.finished is not None:
            timer.reuse(out_dir)
            return Checkpoint(out_dir, draft.finished)
        precision = ranks.pinned_precision(draft.path / "resume-precision.json", settings.dtype)
        vocabulary = None
        if student.vocabulary == "corpus":
            vocabulary = corpus_vocabulary(start.path, corpus, system=system, labels=task_labels)
        material = load_material(
            start.path, corpus, settings, stage=stage, reporter=reporter, vocabulary=vocabulary
        )
        stores = open_stores(labels, material)
        rows: Mapping[str, TeacherRows] = {}
        if reads_own:
            assert teacher is not None
            rows = _rows_of(teacher, corpus, material, stage=stage, reporter=reporter)
        ranks.check_room(
            start.path,
            precision,
            purpose="training a model",
            all_take_back=settings.shard_layers,
        )
        run = _Run(
            start,
            material,
            stores,
            teacher,
            rows,
            settings,
            student,
            task_labels,
            precision=precision,
            state_dir=draft.path,
            stage=stage,
            reporter=reporter,
        )
        model, parts, result = run.trained()
        parameters = sum(value.numel() for value in model.parameters())
        checkpoint = complete_checkpoint(
            draft,
            model,
            material,
            result,
            precision=precision,
            settings={**_effective(settings), "layers": list(parts.layers)},
            facts={**parts.facts(), "parameters": parameters},
            start=start,
            corpus=corpus,
            system=system,
            labels=task_labels,
            noise_types=noise_types,
            reporter=reporter,
        )
        timer.finish(out_dir, checkpoint.facts)
        return checkpoint


def _rows_of(
    teacher: Checkpoint, corpus: Corpus, material: Material, *, stage: str, reporter: Reporter
) -> Mapping[str, TeacherRows]:
    """What a teacher of other tokens reads of what is learnt, by split."""
    learnt = {"train": material.training, "validation": material.validation}
    splits = {
        name: (list(read_examples(corpus.split_path(name))), batches.examples)
        for name, batches in learnt.items()
    }
    return read_teacher_rows(teacher, material.tokenizer, splits, stage=stage, reporter=reporter)


def _work(
    start: Checkpoint,
    corpus: Corpus,
    labels: SoftLabels | None,
    settings: DistillSection,
    *,
    student: StudentSection,
    teacher: Checkpoint | None,
    reads_own: bool,
    system: str | None,
    task_labels: tuple[str, ...],
) -> Work:
    """What decides the student."""
    inputs = {"start": start, "corpus": corpus, "labels": labels, "teacher": teacher}
    tokenizer = load_tokenizer(start.path)
    of_teacher: dict[str, str] = {}
    if reads_own:
        assert teacher is not None
        theirs = load_tokenizer(teacher.path)
        read = key_of_matched_ends(theirs, corpus) | key_of_dates(theirs)
        of_teacher = {f"teacher's {name}": value for name, value in read.items()}
    return Work(
        kind=Checkpoint.kind,
        stage=STAGE if labels or teacher else CONTROL_STAGE,
        version=_version(labels, settings, student),
        inputs={name: one.digest for name, one in inputs.items() if one is not None},
        settings={
            **_effective(settings),
            **student.effective(),
            "system": system,
            "labels": list(task_labels),
            **key_of_ends(tokenizer, corpus),
            **key_of_dates(tokenizer),
            **of_teacher,
            **key_of_last_answers(settings, corpus, task_labels),
        },
        seed=settings.seed,
    )


def _effective(settings: DistillSection) -> dict[str, Any]:
    """The settings that decide the result."""
    idle = settings.idle_keys
    return {key: value for key, value in key_settings(settings).items() if key not in idle}


def _version(labels: SoftLabels | None, settings: DistillSection, student: StudentSection) -> int:
    """Of this stage: raised for the work whose result has become another, and for that alone."""
    fills_up = labels is not None and (
        student.vocabulary == "corpus" or "student" in labels.manifest.work.inputs
    )
    if fills_up and any(isinstance(loss, _MIXED) for loss in settings.losses):
        return 6  # what 4 says, of these losses, too
    if settings.on_policy is not None:
        return 5  # 4: other numbers draw rollouts; 5: they are scored on prompts of all labels
    return 4 if fills_up else 3  # 4: tokens that only fill up a list belong to the rest


def _settings_in_effect(
    settings: DistillSection, labels: SoftLabels | None, teacher: Checkpoint | None
) -> DistillSection:
    """The settings, without what is left out when there are no soft labels.

    Raises:
        TrainingError: what they need of the teacher was not given.
    """
    if settings.reads_soft_labels and labels is None:
        if settings.losses:
            raise TrainingError(
                "distill.losses reads stored soft labels, and none were given",
                hint="make them first: ollama-bridge label; or --set distill.teacher=live",
            )
        settings = settings.model_copy(update={"kd_weight": 0.0})
    if settings.loads_teacher and teacher is None:
        raise TrainingError(
            "hidden states, attention maps, rollouts and a live teacher: each needs the teacher's "
            "weights, and none was given",
            hint="pass teacher=... (--teacher), or leave these out of the distill section",
        )
    return settings


@dataclass(frozen=True)
class _Run:
    """One student, cut out of its start and trained."""

    start: Checkpoint
    material: Material
    stores: Mapping[str, SplitLabels]
    teacher: Checkpoint | None
    rows: Mapping[str, TeacherRows]
    settings: DistillSection
    student: StudentSection
    task_labels: tuple[str, ...]
    _: KW_ONLY
    precision: Precision
    state_dir: Path
    stage: str
    reporter: Reporter

    def trained(self) -> tuple[CausalModel, Parts, TrainingResult]:
        """The student, which parts of its start it has, and what the loop has to say."""
        model, parts, total = self._cut()
        live = None if self.teacher is None else self._beside(model, self.teacher)
        objectives = make_objectives(
            self.settings,
            model,
            live,
            kept=parts.layers,
            total=total,
            rows=self.rows.get("train"),
        )
        phases = self._phases(model, objectives)
        on_policy = phases[-1].on_policy
        validation = self.material.validation
        with trained_with(model, objectives.projections):
            result = train(
                model,
                phases,
                self.material.training,
                self.settings,
                stage=self.stage,
                precision=self.precision,
                state_dir=self.state_dir,
                reporter=self.reporter,
                validate=Validator(
                    model,
                    validation,
                    precision=self.precision,
                    store=self.stores.get("validation"),
                    teacher=live if self.settings.teacher == "live" else None,
                    rows=self.rows.get("validation"),
                    on_policy=on_policy,
                    answers=answers_of_task(validation.examples, self.task_labels),
                ),
                score=score_of_task(validation.examples, self.task_labels),
            )
        return model, parts, result

    def _cut(self) -> tuple[CausalModel, Parts, int]:
        """The student before training, its parts, and how many layers its start has."""
        model: CausalModel = load_model(self.start.path)
        total = len(model.base_model.layers)
        vocabulary = self.material.vocabulary
        model, parts = cut_student(
            model if vocabulary is None else keep_tokens(model, vocabulary),
            self.student,
            self.material,
            precision=self.precision,
            state_dir=self.state_dir,
            stage=self.stage,
            reporter=self.reporter,
        )
        if not self.settings.train_embeddings:
            for matrix in (model.get_input_embeddings(), model.get_output_embeddings()):
                matrix.requires_grad_(False)
        return model, parts, total

    def _beside(self, model: CausalModel, teacher: Checkpoint) -> LiveTeacher:
        """The teacher that runs beside the student."""
        attentions = reads_attention(self.settings)
        live = load_live_teacher(
            teacher,
            self.material.tokenizer,
            self.precision,
            student=model,
            attentions=attentions,
            vocabulary=self.material.vocabulary,
            reads_own=bool(self.rows),
        )
        if attentions:
            model.set_attn_implementation("eager")
        return live

    def _phases(self, model: CausalModel, objectives: Objectives) -> list[Phase]:
        """Hidden states alone, if asked for; then answers, of the corpus and the student's own."""
        settings = self.settings
        on_policy = None
        if objectives.rollouts is not None:
            on_policy = OnPolicy(
                model,
                objectives.rollouts,
                settings,
                self.material.training.examples,
                tokenizer=self.material.tokenizer,
                precision=self.precision,
                tell=lambda message: self.reporter.emit(Note(self.stage, "warning", message)),
            )
        store = self.stores.get("train")
        read = None if store is None else store.read
        answers = Phase(
            "answers",
            self.material.epochs,
            settings.lr,
            objectives.answers,
            read,
            on_policy,
            asked_epochs=settings.epochs,
        )
        if objectives.transfer is None:
            return [answers]
        transfer = Phase("hidden", settings.hidden_epochs, settings.lr, objectives.transfer)
        return [transfer, answers]
