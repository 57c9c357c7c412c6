"""The student before training: which layers it has, and what each has to reach."""

from __future__ import annotations

from ollama_bridge.artifacts import Checkpoint
from ollama_bridge.config import StudentSection
from ollama_bridge.errors import TrainingError
from ollama_bridge.models.forward import CausalModel
from ollama_bridge.models.load import load_model
from ollama_bridge.models.precision import Precision
from ollama_bridge.models.prune import even_layers, first_layers
from ollama_bridge.train.objective import layer_targets


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


def load_hidden_teacher(
    teacher: Checkpoint, student: CausalModel, precision: Precision
) -> CausalModel:
    """The teacher as the student reads its hidden states: frozen, on the student's device.

    Raises:
        TrainingError: its hidden states are of another width.
    """
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
