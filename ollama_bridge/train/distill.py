"""Trains a student on a teacher, stored or live, and the SFT control without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ollama_bridge.models.compute.forward import CausalModel
from ollama_bridge.models.compute.memory import memory_is_enough
from ollama_bridge.models.compute.precision import Precision
from ollama_bridge.models.load import load_model
from ollama_bridge.models.pruning.tokens import keep_tokens
from ollama_bridge.recipe.config import DistillSection, StudentSection
from ollama_bridge.reference import NOISE_TYPES
from ollama_bridge.reporting import Note, NullReporter, Reporter, Timed
from ollama_bridge.storage.artifacts import Checkpoint, Corpus, SoftLabels
from ollama_bridge.storage.drafts import Draft
from ollama_bridge.train.live_teacher import LiveTeacher, load_live_teacher
from ollama_bridge.train.loop import train
from ollama_bridge.train.losses.objectives import Objectives, make_objectives, reads_attention
from ollama_bridge.train.losses.projections import trained_with
from ollama_bridge.train.material import Material, complete_checkpoint
from ollama_bridge.train.on_policy import OnPolicy
from ollama_bridge.train.phase import Phase
from ollama_bridge.train.plan import less_memory
from ollama_bridge.train.ranks import Ranks
from ollama_bridge.train.result import TrainingResult
from ollama_bridge.train.soft_targets import SplitLabels, open_stores
from ollama_bridge.train.stopping import answers_of_task, score_of_task
from ollama_bridge.train.student import Parts, cut_student
from ollama_bridge.train.student_inputs import StudentInputs, settings_in_effect
from ollama_bridge.train.teacher_rows import TeacherRows
from ollama_bridge.train.validation import Validator


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
    out_dir: str | Path,
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
    out_dir = Path(out_dir)
    ranks = Ranks.current()
    reporter = ranks.reporter(reporter or NullReporter())
    settings = settings_in_effect(settings, labels, teacher)
    inputs = StudentInputs(
        start,
        corpus,
        labels if settings.reads_soft_labels else None,
        teacher if settings.loads_teacher else None,
        settings,
        student,
        system,
        task_labels,
    )
    work = inputs.work()
    with (
        Timed(reporter, inputs.stage) as timer,
        ranks.open_draft(out_dir, work, reporter) as draft,
        memory_is_enough(less_memory(settings)),
    ):
        if draft.finished is not None:
            timer.reuse(out_dir)
            return Checkpoint(out_dir, draft.finished)
        precision = ranks.pinned_precision(draft.path / "resume-precision.json", settings.dtype)
        material = inputs.material(reporter)
        stores = open_stores(inputs.labels, material)
        rows = inputs.teacher_rows(material, reporter)
        ranks.check_room(
            start.path,
            precision,
            purpose="training a model",
            all_take_back=settings.shard_layers,
        )
        run = _Run(inputs, material, stores, rows, precision, draft, reporter)
        checkpoint = run.checkpoint(noise_types)
        timer.finish(out_dir, checkpoint.facts)
        return checkpoint


@dataclass(frozen=True)
class _Run:
    """One student, cut out of its start and trained."""

    inputs: StudentInputs
    material: Material
    stores: Mapping[str, SplitLabels]
    rows: Mapping[str, TeacherRows]
    precision: Precision
    draft: Draft
    reporter: Reporter

    def checkpoint(self, noise_types: Sequence[str]) -> Checkpoint:
        """The trained student, complete."""
        inputs = self.inputs
        model, parts, result = self._trained()
        parameters = sum(value.numel() for value in model.parameters())
        return complete_checkpoint(
            self.draft,
            model,
            self.material,
            result,
            precision=self.precision,
            settings={**inputs.effective, "layers": list(parts.layers)},
            facts={**parts.facts(), "parameters": parameters},
            start=inputs.start,
            corpus=inputs.corpus,
            system=inputs.system,
            labels=inputs.task_labels,
            noise_types=noise_types,
            reporter=self.reporter,
        )

    def _trained(self) -> tuple[CausalModel, Parts, TrainingResult]:
        """The student, which parts of its start it has, and what the loop has to say."""
        inputs, settings = self.inputs, self.inputs.settings
        model, parts, total = self._cut()
        live = None if inputs.teacher is None else self._beside(model, inputs.teacher)
        objectives = make_objectives(
            settings,
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
                settings,
                stage=self.inputs.stage,
                precision=self.precision,
                state_dir=self.draft.path,
                reporter=self.reporter,
                validate=Validator(
                    model,
                    validation,
                    precision=self.precision,
                    store=self.stores.get("validation"),
                    teacher=live if settings.teacher == "live" else None,
                    rows=self.rows.get("validation"),
                    on_policy=on_policy,
                    answers=answers_of_task(validation.examples, inputs.task_labels),
                ),
                score=score_of_task(validation.examples, inputs.task_labels),
            )
        return model, parts, result

    def _cut(self) -> tuple[CausalModel, Parts, int]:
        """The student before training, its parts, and how many layers its start has."""
        model: CausalModel = load_model(self.inputs.start.path)
        total = len(model.base_model.layers)
        vocabulary = self.material.vocabulary
        model, parts = cut_student(
            model if vocabulary is None else keep_tokens(model, vocabulary),
            self.inputs.student,
            self.material,
            precision=self.precision,
            state_dir=self.draft.path,
            stage=self.inputs.stage,
            reporter=self.reporter,
        )
        if not self.inputs.settings.train_embeddings:
            for matrix in (model.get_input_embeddings(), model.get_output_embeddings()):
                matrix.requires_grad_(False)
        return model, parts, total

    def _beside(self, model: CausalModel, teacher: Checkpoint) -> LiveTeacher:
        """The teacher that runs beside the student."""
        attentions = reads_attention(self.inputs.settings)
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

    def _warn(self, message: str) -> None:
        self.reporter.emit(Note(self.inputs.stage, "warning", message))

    def _phases(self, model: CausalModel, objectives: Objectives) -> list[Phase]:
        """Hidden states alone, if asked for; then answers, of the corpus and the student's own."""
        settings = self.inputs.settings
        on_policy = None
        if objectives.rollouts is not None:
            on_policy = OnPolicy(
                model,
                objectives.rollouts,
                settings,
                self.material.training.examples,
                tokenizer=self.material.tokenizer,
                precision=self.precision,
                tell=self._warn,
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
