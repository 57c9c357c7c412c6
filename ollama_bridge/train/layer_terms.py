"""The losses between layers of student and teacher, as a recipe names them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ollama_bridge.errors import TrainingError
from ollama_bridge.loss_sections import HiddenLoss, LayerLoss
from ollama_bridge.models.forward import States
from ollama_bridge.train.attention_losses import attention_error, attention_kl
from ollama_bridge.train.hidden_losses import hidden_angle, hidden_error
from ollama_bridge.train.projections import Projections

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

        Args:
            student: With what the loss reads.
            teacher: The same batch's.
            projections: Where hidden states are of different widths.

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
