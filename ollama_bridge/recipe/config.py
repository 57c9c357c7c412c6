"""The recipe: everything that decides a build, as one frozen value.

A recipe is YAML without code: no class paths, no interpolation, no environment. Unknown keys are
errors with the nearest right key; all problems are reported at once. ``training/recipes`` holds
the ones that ship.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from ollama_bridge.errors import ConfigError
from ollama_bridge.quantization.file_types import FileTypeName
from ollama_bridge.quantization.sizes import parse_size
from ollama_bridge.recipe.losses import problem_of_sampled
from ollama_bridge.recipe.sections import Section, Seed
from ollama_bridge.recipe.student import StudentSection
from ollama_bridge.recipe.teacher import AskedTeacherSection
from ollama_bridge.recipe.training import (
    DistillSection,
    EarlyStoppingSection,
    LoraSection,
    OnPolicySection,
    OptimizerSection,
    SoftLabelsSection,
    TuneSection,
)

__all__ = [
    "ControlSection",
    "DataSection",
    "DistillSection",
    "EarlyStoppingSection",
    "EvaluateSection",
    "ExportSection",
    "LoraSection",
    "ModelfileSection",
    "OnPolicySection",
    "OptimizerSection",
    "Recipe",
    "SoftLabelsSection",
    "StudentSection",
    "TaskSection",
    "TeacherSection",
    "TuneSection",
]

_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")


class TaskSection(Section):
    """What the student is for."""

    kind: Literal["classify", "reply"] = Field(
        description="classify: the answer is one of `labels`; reply: the answer is free text."
    )
    system: str = Field(description="System prompt of every example, and SYSTEM of the tag.")
    labels: tuple[str, ...] = Field(
        default=(), description="The answers of a classify task, exactly as the model says them."
    )

    @model_validator(mode="after")
    def _labels_fit_kind(self) -> TaskSection:
        if self.kind == "classify" and len(set(self.labels)) < 2:
            raise ValueError("labels: a classify task needs at least two different labels")
        if self.kind == "reply" and self.labels:
            raise ValueError("labels: a reply task has none")
        if not all(label.strip() for label in self.labels):
            raise ValueError("labels: an empty one cannot be said; take it out")
        same = Counter(label.strip() for label in self.labels)
        if len(same) < len(self.labels):
            label = same.most_common(1)[0][0]
            raise ValueError(f"labels: {label!r} is there more than once; take the others out")
        for label in self.labels:
            if label != label.strip():  # answers are kept without, and would all be wrong
                raise ValueError(f"labels: {label!r} has blanks around it; write {label.strip()!r}")
        return self


class DataSection(Section):
    """Where examples come from, and how they are cleaned and split."""

    source: Literal["vader", "reviews", "table", "messages"] = Field(
        description="vader: human-rated snippets and tweets; reviews: unlabelled review snippets "
        "plus multi-turn dialogues; table: CSV or JSONL with text and label columns; "
        "messages: JSONL of conversations."
    )
    path: Path | None = Field(default=None, description="File of a table or messages source.")
    text_col: str | tuple[str, ...] = Field(
        default="text",
        description="Column of the text (table). With several columns, the texts that are not "
        "empty are joined by a blank line, in the order given.",
    )
    label_col: str = Field(
        default="label", description="Column of the label, or of the answer (table)."
    )
    group_col: str | None = Field(
        default=None,
        description="Column of the source document; rows of one document stay in one split.",
    )
    split_col: str | None = Field(
        default=None,
        description="Column (messages: field) of the split: train, validation or test.",
    )
    each_answer: bool = Field(
        default=False,
        description="messages: learn a conversation up to each of its answers, for chat templates "
        "of which else the last alone would be learnt.",
    )
    label_map: Mapping[str, str] = Field(
        default_factory=dict, description="Label as written in the file -> label of the task."
    )
    min_abs_rating: float = Field(
        default=0.5, ge=0.0, le=4.0, description="vader: keep texts rated at least this far from 0."
    )
    max_examples: int | None = Field(
        default=None, gt=0, description="Keep at most this many training examples (seeded)."
    )
    test_examples: int = Field(
        default=2200,
        gt=0,
        description="Texts scored once, at the end; of a split that the file has at most so many.",
    )
    validation_examples: int = Field(
        default=800, gt=0, description="Texts for choices; of a split that the file has likewise."
    )
    dialogue_examples: int = Field(
        default=0, ge=0, description="reviews: multi-turn dialogues from chatterbot-corpus."
    )
    max_chars: int = Field(
        default=2000, gt=0, description="Longer texts are left out, and counted."
    )
    near_duplicates: Literal["leave_out", "keep"] = Field(
        default="leave_out",
        description="leave_out: of texts that are alike but for a few words one is taken. keep: "
        "all of them, also in different splits; exact duplicates are left out all the same.",
    )

    @property
    def text_cols(self) -> tuple[str, ...]:
        """Columns of the text, one or more."""
        return (self.text_col,) if isinstance(self.text_col, str) else self.text_col

    @model_validator(mode="after")
    def _columns_are_named_once(self) -> DataSection:
        if not self.text_cols or len(set(self.text_cols)) < len(self.text_cols):
            raise ValueError("text_col: name every column of the text once")
        return self

    @model_validator(mode="after")
    def _file_sources_have_a_path(self) -> DataSection:
        if self.source in ("table", "messages") and self.path is None:
            raise ValueError(f"path: a {self.source} source needs a file (or pass --data FILE)")
        if self.split_col and self.source not in ("table", "messages"):
            raise ValueError(f"split_col: a {self.source} source has no such column")
        if self.each_answer and self.source != "messages":
            raise ValueError(f"each_answer: texts of a {self.source} source have one answer")
        return self


class TeacherSection(AskedTeacherSection):
    """The teacher."""

    tune: TuneSection | None = Field(
        default=None, description="Tune the teacher on the task first; null: use it as it is."
    )

    @model_validator(mode="after")
    def _the_tuned_teacher_teaches(self) -> TeacherSection:
        if self.soft_labels != "local" and self.tune is not None:
            raise ValueError(
                "soft_labels: the model that is asked is not the tuned one; set it to local, or "
                "learn from the model as it is (tune: null, or --set teacher.tune=null)"
            )
        return self


class ControlSection(Section):
    """The SFT control: same start, same steps, hard labels only."""

    enabled: bool = True
    lr: float | None = Field(
        default=None, gt=0, description="Learning rate of the control; null: the student's."
    )


class EvaluateSection(Section):
    """What is measured at the end."""

    max_examples: int | None = Field(default=None, gt=0, description="null: the whole test split.")
    bootstrap_samples: int = Field(default=2000, ge=100)
    served: bool = Field(default=True, description="Also score teacher and student as served.")
    served_examples: int | None = Field(default=None, gt=0, description="null: all.")
    reply_tokens: int = Field(
        default=96,
        gt=0,
        description="reply: limit of an answer in tokens, thinking included; classify: limit of "
        "the thinking, of a model that thinks. A served tag's own num_predict applies too.",
    )


class ExportSection(Section):
    """GGUF types and tags."""

    tag: str = Field(description="Name of the model in Ollama.")
    types: tuple[FileTypeName, ...] = Field(
        default=("q8_0", "f16"),
        min_length=1,
        description="The first is served as `latest`, the others under their own names.",
    )
    budget_nats: float | None = Field(
        default=None,
        gt=0,
        description="Also the tag `budget`: the smallest file whose mean KL to the float student, "
        "on validation texts, stays within this (0.01).",
    )
    max_size: str | None = Field(
        default=None,
        description="Instead of budget_nats: the file of least KL that is no larger than this "
        "(80MB).",
    )

    @model_validator(mode="after")
    def _tag_is_a_name(self) -> ExportSection:
        if not _TAG.fullmatch(self.tag):
            raise ValueError(
                f"tag: {self.tag!r} is not a name that its types can be added to: write letters, "
                "digits, . _ and -, such as my-model or team/my-model"
            )
        return self

    @model_validator(mode="after")
    def _one_target(self) -> ExportSection:
        if self.max_size is None:
            return self
        if self.budget_nats is not None:
            raise ValueError("max_size: give either budget_nats or max_size, not both")
        try:
            size_bytes = parse_size(self.max_size)
        except ConfigError as exc:
            raise ValueError(f"max_size: {exc.message}; {exc.hint}") from exc
        if not size_bytes:
            raise ValueError("max_size: has to be more than 0 bytes")
        return self


class ModelfileSection(Section):
    """The Modelfile: a template of `modelfiles/` and its parameters."""

    template: str = Field(default="auto", description="A chat format, a .j2 file, or auto.")
    parameters: Mapping[str, bool | float | int | str | tuple[str, ...]] = Field(
        default_factory=dict,
        description="PARAMETER lines: temperature, num_predict, repeat_penalty, num_ctx, ...",
    )
    license: str | None = None


class Recipe(Section):
    """Everything that decides a build."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    description: str = ""
    seed: Seed = 0
    task: TaskSection
    data: DataSection
    teacher: TeacherSection
    student: StudentSection = StudentSection()
    soft_labels: SoftLabelsSection = SoftLabelsSection()
    distill: DistillSection = DistillSection()
    control: ControlSection = ControlSection()
    evaluate: EvaluateSection = EvaluateSection()
    export: ExportSection
    modelfile: ModelfileSection = ModelfileSection()

    @property
    def needs_teacher_weights(self) -> bool:
        """Whether torch runs the teacher, or cuts the student out of it."""
        is_taught = self.teacher.soft_labels == "local" or self.distill.loads_teacher
        return is_taught or self.student.model == "teacher"

    @property
    def needs_same_tokens(self) -> bool:
        """Whether the student is taught in the teacher's own tokens: beside it, or by its draws."""
        return self.learns_from_draws or self.distill.loads_teacher

    @property
    def learns_from_draws(self) -> bool:
        """Whether its soft labels are drawn at random."""
        return self.soft_labels.method == "sampled" and self.distill.reads_soft_labels

    @property
    def control_settings(self) -> DistillSection:
        """Of the SFT control: the student's without the teacher."""
        return self.distill.model_copy(
            update={
                "losses": (),
                "teacher": "stored",
                "kd_weight": 0.0,
                "hidden_weight": 0.0,
                "hidden_epochs": 0.0,
                "on_policy": None,
                # The steps that the student spent on hidden states, it spends on answers.
                "epochs": self.distill.epochs + self.distill.hidden_epochs,
                "lr": self.control.lr or self.distill.lr,
            }
        )

    @property
    def stops_by_f1(self) -> tuple[str, ...]:
        """The sections whose weights early stopping compares by the F1 of labels."""
        sections = {"teacher.tune": self.teacher.tune, "distill": self.distill}
        early = {name: one.early_stopping for name, one in sections.items() if one is not None}
        return tuple(name for name, one in early.items() if one and one.metric == "macro_f1")

    @model_validator(mode="after")
    def _parts_fit(self) -> Recipe:
        written = self.teacher.answers == "daemon"
        if self.task.kind == "classify" and written and not self.teacher.rewrite:
            raise ValueError(
                "teacher.answers: a classify task has gold answers in its data (write them again: "
                "teacher.rewrite)"
            )
        teacher = self.teacher
        is_asked = written or teacher.soft_labels == "daemon"
        if is_asked and teacher.base_url is None and not teacher.model.startswith("ollama:"):
            is_place = "/" in teacher.model or teacher.model.endswith(".gguf")
            tag = "ollama:TAG" if is_place else f"ollama:{teacher.model}"
            raise ValueError(
                f"teacher.model: {teacher.model!r} is no tag, and a daemon is asked by one: {tag}"
            )
        if teacher.base_url is not None and self.student.model == "teacher":
            raise ValueError(
                "student.model: is required, for there are no weights behind teacher.base_url: "
                "name what the student starts from, as by --set student.model=ollama:smollm2:135m"
            )
        if teacher.soft_labels == "daemon" and self.soft_labels.method != "top_k":
            raise ValueError(
                "soft_labels.method: a daemon reports the likeliest tokens; set it to top_k"
            )
        if teacher.soft_labels == "none" and self.distill.reads_soft_labels:
            raise ValueError("distill.kd_weight: set it to 0, for teacher.soft_labels is none")
        if teacher.base_url is not None and self.distill.loads_teacher:
            raise ValueError(
                "distill: its losses need the teacher's weights, and teacher.base_url has none"
            )
        for name in self.stops_by_f1:
            if self.task.kind == "reply":
                raise ValueError(
                    f"{name}.early_stopping.metric: macro_f1 needs labels, and replies have "
                    "none; leave it out"
                )
            if teacher.thinking != "strip":
                raise ValueError(
                    f"{name}.early_stopping.metric: macro_f1 needs labels alone, and these have "
                    "thoughts in front; leave it out, or set it to token_accuracy (or set "
                    "teacher.thinking: strip)"
                )
        if self.data.source == "reviews" and self.teacher.answers != "daemon":
            raise ValueError("teacher.answers: the reviews source has no answers; set it to daemon")
        if self.soft_labels.method == "sampled" and self.distill.reads_soft_labels:
            terms, are_listed = self.distill.loss_terms, bool(self.distill.losses)
            problem = problem_of_sampled(terms, are_listed=are_listed)
            if problem is not None:
                raise ValueError(problem)
            if self.student.vocabulary == "corpus":
                raise ValueError(
                    "student.vocabulary: sampled labels cannot be carried into a smaller "
                    "vocabulary; set it to full, or set soft_labels.method: top_k"
                )
        return self
