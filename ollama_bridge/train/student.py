"""The student before training: which layers it has, and what each has to reach."""

from __future__ import annotations

from collections.abc import Sequence

from ollama_bridge.config import StudentSection
from ollama_bridge.errors import ConfigError
from ollama_bridge.loss_sections import HiddenLoss, LayerLoss
from ollama_bridge.models.forward import CausalModel
from ollama_bridge.models.pruning.layers import even_layers, first_layers
from ollama_bridge.train.layer_terms import LayerTerm
from ollama_bridge.train.objective import layer_targets
from ollama_bridge.train.projections import Projections


def chosen_layers(student: StudentSection, total: int) -> tuple[int, ...]:
    """The layers of the start that the student keeps, ascending.

    Args:
        student: A count and how to choose, or the numbers themselves.
        total: Layers of the start.

    Raises:
        ConfigError: more than there are.
    """
    if student.layers is None:
        return tuple(range(total))
    if isinstance(student.layers, int):
        if student.layer_choice == "even":
            return even_layers(student.layers, total)
        return first_layers(student.layers, total)
    return student.layers


def hidden_goals(kept: tuple[int, ...], total: int, teacher: CausalModel) -> tuple[int, ...]:
    """The teacher's hidden state that each layer of the student has to reach.

    Args:
        kept: The student's layers by their numbers in what it starts from.
        total: Layers of what it starts from.
        teacher: Whose hidden states.
    """
    teacher_layers = len(teacher.base_model.layers)
    if total != teacher_layers:  # the student is no part of this teacher: spread it evenly
        kept = even_layers(len(kept), teacher_layers)
    return layer_targets(kept, teacher_layers=teacher_layers)


def layer_term(
    loss: LayerLoss, kept: tuple[int, ...], total: int, teacher: CausalModel
) -> LayerTerm:
    """Which layers of student and teacher a loss compares.

    Args:
        loss: Its ``layer_map``, if it has one, decides.
        kept: The student's layers by their numbers in what it starts from.
        total: Layers of what it starts from.
        teacher: Whose layers.

    Raises:
        ConfigError: the map names a layer that does not exist.
    """
    teacher_layers = len(teacher.base_model.layers)
    # Hidden state 0 is the embedding, so layer i ends in state i + 1.
    shift = 1 if isinstance(loss, HiddenLoss) else 0
    if loss.layer_map is not None:
        for mine, goal in loss.layer_map.items():
            if mine >= len(kept) or goal >= teacher_layers:
                raise ConfigError(
                    f"layer_map {mine}: {goal} of the {loss.loss} loss: the student has "
                    f"{len(kept)} layers and the teacher {teacher_layers}, counted from 0",
                    hint="correct layer_map in distill.losses",
                )
        pairs = tuple((mine + shift, goal + shift) for mine, goal in loss.layer_map.items())
    elif isinstance(loss, HiddenLoss):
        pairs = tuple(enumerate(hidden_goals(kept, total, teacher), start=1))
    else:
        pairs = ((len(kept) - 1, teacher_layers - 1),)
    return LayerTerm(loss, pairs)


def make_projections(
    terms: Sequence[LayerTerm], student: CausalModel, teacher: CausalModel, *, seed: int
) -> Projections | None:
    """Learned maps to the teacher's width for all hidden states that are compared.

    Returns:
        None where both have one width.
    """
    widths = student.config.hidden_size, teacher.config.hidden_size
    states = [mine for term in terms if term.compares_hidden for mine, _ in term.pairs]
    if widths[0] == widths[1] or not states:
        return None
    return Projections(states, student_width=widths[0], teacher_width=widths[1], seed=seed)
