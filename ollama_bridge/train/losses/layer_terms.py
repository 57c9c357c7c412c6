"""The losses between layers of student and teacher, as a recipe names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ollama_bridge.errors import ConfigError, TrainingError
from ollama_bridge.models.compute.forward import CausalModel, States
from ollama_bridge.models.pruning.layers import even_layers
from ollama_bridge.recipe.losses import HiddenLoss, LayerLoss
from ollama_bridge.train.losses.attention import attention_error, attention_kl
from ollama_bridge.train.losses.hidden import hidden_angle, hidden_error
from ollama_bridge.train.losses.projections import Projections

_HIDDEN = {"error": hidden_error, "angle": hidden_angle}
_ATTENTION = {"kl": attention_kl, "error": attention_error}


@dataclass(frozen=True)
class LayerTerm:
    """A loss, and the layers that it compares.

    Attributes:
        loss: Which, and its options.
        pairs: Student's and teacher's number in ``States.layers`` (of hidden states) or
            ``States.attentions``.
    """

    loss: LayerLoss
    pairs: tuple[tuple[int, int], ...]

    @property
    def compares_hidden(self) -> bool:
        """Whether it reads hidden states, and not attention maps."""
        return isinstance(self.loss, HiddenLoss)

    def values(
        self, student: States, teacher: States, projections: Projections | None
    ) -> list[torch.Tensor]:
        """A value on every token, for each pair of layers; without the loss's weight.

        Raises:
            TrainingError: a model gives no attention maps.
        """
        if isinstance(self.loss, HiddenLoss):
            compare = _HIDDEN[self.loss.distance]
            found = []
            for mine, goal in self.pairs:
                states = student.layers[mine]
                if projections is not None:
                    states = projections(mine, states)
                found.append(compare(states, teacher.layers[goal]))
            return found
        if not student.attentions or not teacher.attentions:
            raise TrainingError(
                "this architecture gives no attention maps",
                hint="leave the attention loss out of distill.losses",
            )
        compare = _ATTENTION[self.loss.distance]
        return [
            compare(student.attentions[mine], teacher.attentions[goal]) for mine, goal in self.pairs
        ]


def hidden_goals(kept: Sequence[int], total: int, teacher_layers: int) -> tuple[int, ...]:
    """The teacher's hidden state that each layer of the student has to reach.

    Hidden state 0 is the embedding, i the output of layer i - 1. A student's layer that was the
    teacher's layer ``kept[j]`` has to do the work of all layers up to the next one that was kept:
    its output has to be what that next layer reads. The last one has to reach the teacher's end.

    Args:
        kept: The student's layers by their numbers in what it starts from, ascending.
        total: Layers of what it starts from.
        teacher_layers: How many the teacher has.
    """
    if total != teacher_layers:  # the student is no part of this teacher: spread it evenly
        kept = even_layers(len(kept), teacher_layers)
    return (*kept[1:], teacher_layers)


def layer_term(
    loss: LayerLoss, kept: tuple[int, ...], total: int, teacher_layers: int
) -> LayerTerm:
    """Which layers a loss compares: those of its ``layer_map``, if it has one.

    ``kept``, ``total`` and ``teacher_layers`` are those of :func:`hidden_goals`.

    Raises:
        ConfigError: the map names a layer that does not exist, or pairs a state behind the final
            norm with one that is not.
    """
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
            ends = mine == len(kept) - 1, goal == teacher_layers - 1
            if shift and ends[0] != ends[1]:
                raise ConfigError(
                    f"layer_map {mine}: {goal} of the {loss.loss} loss: the last layer's state is "
                    "read behind the final norm, any other in front of it",
                    hint=f"give {len(kept) - 1} the teacher's {teacher_layers - 1}, and that to no "
                    "other, in distill.losses",
                )
        pairs = tuple((mine + shift, goal + shift) for mine, goal in loss.layer_map.items())
    elif isinstance(loss, HiddenLoss):
        pairs = tuple(enumerate(hidden_goals(kept, total, teacher_layers), start=1))
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
