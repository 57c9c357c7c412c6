"""The objectives of a distillation, as its settings name their losses."""

from __future__ import annotations

from dataclasses import dataclass

from ollama_bridge.models.compute.forward import CausalModel
from ollama_bridge.recipe.config import DistillSection
from ollama_bridge.recipe.losses import AttentionLoss, HiddenLoss, LayerLoss, VocabularyLoss
from ollama_bridge.train.live_teacher import LiveTeacher
from ollama_bridge.train.losses.layer_terms import LayerTerm, layer_term, make_projections
from ollama_bridge.train.losses.objective import Objective
from ollama_bridge.train.losses.projections import Projections
from ollama_bridge.train.teacher_rows import TeacherRows


@dataclass(frozen=True)
class Objectives:
    """What is minimised, and what is trained beside the student for it.

    Attributes:
        answers: All losses of the settings.
        transfer: Hidden states alone, for the epochs before; None where there are none.
        rollouts: Losses on answers that the student writes; None where it writes none.
        projections: For hidden states of different widths; None where they are equal.
    """

    answers: Objective
    transfer: Objective | None
    rollouts: Objective | None
    projections: Projections | None


def reads_attention(settings: DistillSection) -> bool:
    """Whether attention maps are compared, which few kinds of attention can give."""
    return any(isinstance(loss, AttentionLoss) for loss in settings.loss_terms)


def make_objectives(
    settings: DistillSection,
    student: CausalModel,
    teacher: LiveTeacher | None,
    *,
    kept: tuple[int, ...],
    total: int,
    rows: TeacherRows | None = None,
) -> Objectives:
    """Turn settings into what is computed.

    Args:
        settings: Losses, and the seed of projections.
        student: The model that is trained.
        teacher: Given where ``settings.loads_teacher``.
        kept: The student's layers by their numbers in what it starts from.
        total: Layers of what it starts from.
        rows: Of the training split, as the teacher reads them where its tokens are others.

    Raises:
        ConfigError: a loss names a layer that does not exist.
        TrainingError: the teacher is needed and missing.
    """
    vocabulary: list[VocabularyLoss] = []
    layers: list[LayerLoss] = []
    for loss in settings.loss_terms:
        if isinstance(loss, HiddenLoss | AttentionLoss):
            layers.append(loss)
        else:
            vocabulary.append(loss)
    hidden = [loss for loss in layers if isinstance(loss, HiddenLoss)] or [HiddenLoss()]
    terms: list[LayerTerm] = []
    alone: list[LayerTerm] = []
    projections = None
    if teacher is not None:
        teacher_layers = len(teacher.model.base_model.layers)
        terms = [layer_term(loss, kept, total, teacher_layers) for loss in layers]
        if settings.hidden_epochs > 0:
            # By itself a loss needs no weight.
            once = [loss.model_copy(update={"weight": 1.0}) for loss in hidden]
            alone = [layer_term(loss, kept, total, teacher_layers) for loss in once]
        projections = make_projections([*terms, *alone], student, teacher.model, seed=settings.seed)
    answers = Objective(
        student,
        vocabulary,
        layer_terms=terms,
        teacher=teacher,
        live=settings.teacher == "live",
        projections=projections,
        rows=rows,
    )
    transfer = None
    if settings.hidden_epochs > 0:
        transfer = Objective(
            student, (), layer_terms=alone, teacher=teacher, projections=projections
        )
    rollouts = None
    if settings.on_policy is not None:
        rollouts = Objective(student, settings.on_policy.losses, teacher=teacher, live=True)
    return Objectives(answers, transfer, rollouts, projections)
