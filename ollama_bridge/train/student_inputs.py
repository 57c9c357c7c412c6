"""What a student is made of: the key of its work, and what of it is learnt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ollama_bridge.encoding.row_keys import key_of_rows, key_of_teachers_rows
from ollama_bridge.errors import TrainingError
from ollama_bridge.examples import read_examples
from ollama_bridge.models.load import load_tokenizer
from ollama_bridge.recipe.config import DistillSection, StudentSection
from ollama_bridge.recipe.losses import JensenShannonLoss, KLSkewedLoss, TotalVariationLoss
from ollama_bridge.reporting import Reporter
from ollama_bridge.storage.artifacts import Checkpoint, Corpus, SoftLabels, Work
from ollama_bridge.train.corpus_vocabulary import corpus_vocabulary
from ollama_bridge.train.material import Material, key_settings, load_material
from ollama_bridge.train.stopping import key_of_last_answers
from ollama_bridge.train.teacher_rows import TeacherRows, read_teacher_rows, reads_own_tokens

_STAGE = "distill"
_CONTROL_STAGE = "control"

_MIXED = (KLSkewedLoss, JensenShannonLoss, TotalVariationLoss)


@dataclass(frozen=True)
class StudentInputs:
    """All that decides a student.

    Attributes:
        start: Whose weights, or some of whose layers, it begins with.
        corpus: Training and validation texts.
        labels: Soft labels, where the settings read them.
        teacher: Where the settings have it loaded.
        settings: Losses and optimizer.
        student: Which parts of ``start``.
        system: System prompt of the task.
        task_labels: Answers of a classification.
    """

    start: Checkpoint
    corpus: Corpus
    labels: SoftLabels | None
    teacher: Checkpoint | None
    settings: DistillSection
    student: StudentSection
    system: str | None
    task_labels: tuple[str, ...]

    @property
    def stage(self) -> str:
        """Distillation, or the SFT control."""
        return _STAGE if self.labels or self.teacher else _CONTROL_STAGE

    @property
    def effective(self) -> dict[str, Any]:
        """The settings that decide the result."""
        idle, settings = self.settings.idle_keys, key_settings(self.settings)
        return {key: value for key, value in settings.items() if key not in idle}

    @cached_property
    def reader(self) -> Checkpoint | None:
        """The teacher, if it runs beside the student and reads its own tokens."""
        teacher = self.teacher
        if teacher is None or not reads_own_tokens(teacher, self.start, self.settings):
            return None
        return teacher

    def work(self) -> Work:
        """What decides the student."""
        settings, corpus = self.settings, self.corpus
        inputs = {
            "start": self.start,
            "corpus": corpus,
            "labels": self.labels,
            "teacher": self.teacher,
        }
        of_reader: dict[str, str] = {}
        if self.reader is not None:
            of_reader = key_of_teachers_rows(load_tokenizer(self.reader.path), corpus)
        return Work(
            kind=Checkpoint.kind,
            stage=self.stage,
            version=_version(self.labels, settings, self.student),
            inputs={name: one.digest for name, one in inputs.items() if one is not None},
            settings={
                **self.effective,
                **self.student.effective(),
                "system": self.system,
                "labels": list(self.task_labels),
                **key_of_rows(load_tokenizer(self.start.path), corpus),
                **of_reader,
                **key_of_last_answers(settings, corpus, self.task_labels),
            },
            seed=settings.seed,
        )

    def material(self, reporter: Reporter) -> Material:
        """What is learnt, in the tokens that the student keeps."""
        folder, corpus = self.start.path, self.corpus
        vocabulary = None
        if self.student.vocabulary == "corpus":
            vocabulary = corpus_vocabulary(
                folder, corpus, system=self.system, labels=self.task_labels
            )
        return load_material(
            folder,
            corpus,
            self.settings,
            stage=self.stage,
            reporter=reporter,
            vocabulary=vocabulary,
        )

    def teacher_rows(self, material: Material, reporter: Reporter) -> Mapping[str, TeacherRows]:
        """What a teacher of other tokens reads of what is learnt, by split."""
        if self.reader is None:
            return {}
        learnt = {"train": material.training, "validation": material.validation}
        splits = {
            name: (list(read_examples(self.corpus.split_path(name))), batches.examples)
            for name, batches in learnt.items()
        }
        tokenizer, stage = material.tokenizer, self.stage
        return read_teacher_rows(self.reader, tokenizer, splits, stage=stage, reporter=reporter)


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


def settings_in_effect(
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
