"""What a recipe says of its student, held against configs: before anything is trained for it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from ollama_bridge.errors import ConfigError
from ollama_bridge.models.architectures import ARCHITECTURES
from ollama_bridge.models.architectures.config import integer
from ollama_bridge.models.load import load_tokenizer
from ollama_bridge.models.pruning.layers import check_count, keep_in_config
from ollama_bridge.models.pruning.widths import Kept, narrowed, widths_to_keep
from ollama_bridge.models.safety import read_architecture, read_config
from ollama_bridge.models.settings.hf_config import refusals_named
from ollama_bridge.recipe.config import DistillSection, StudentSection
from ollama_bridge.recipe.losses import AttentionLoss, HiddenLoss
from ollama_bridge.storage.artifacts import Checkpoint
from ollama_bridge.train.corpus_vocabulary import check_vocabulary
from ollama_bridge.train.live_teacher import check_same_tokens
from ollama_bridge.train.losses.layer_terms import layer_term
from ollama_bridge.train.student import chosen_layers
from ollama_bridge.train.teacher_rows import reads_own_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def check_student(
    student: StudentSection,
    settings: DistillSection,
    start: Checkpoint,
    teacher: Checkpoint | None,
) -> list[str]:
    """Make sure that a student can be cut, exported and taught as a recipe says.

    Reads no weights.

    Args:
        student: What it keeps of its start.
        settings: Its losses.
        start: What it is cut from.
        teacher: Whose tokens and layers the losses read beside it; None: none is loaded.

    Returns:
        What Ollama, or some versions, may compute otherwise since it is cut.

    Raises:
        ConfigError: more than there is, what cannot be exported or trimmed, or a layer that is not
            there.
        ModelError: transformers cannot read the start's config.
        TrainingError: the teacher's tokens are others, and a loss needs them to be the same.
    """
    config = _config_of(start)
    total = config.num_hidden_layers
    architecture = read_architecture(start.path, config.to_dict())
    known = ARCHITECTURES[architecture].notes(config.to_dict())
    kept, outcomes = _cut(config, architecture, student)
    found = [note for one in outcomes for note in ARCHITECTURES[architecture].notes(one.to_dict())]
    notes = [note for note in dict.fromkeys(found) if note not in known]
    if student.vocabulary == "corpus":
        check_vocabulary(start.path)
    if teacher is None:
        return notes
    if reads_own_tokens(teacher, start, settings):
        return notes
    check_same_tokens(teacher, load_tokenizer(start.path))
    teacher_layers = integer(read_config(teacher.path), "num_hidden_layers")
    for loss in settings.loss_terms:
        if isinstance(loss, HiddenLoss | AttentionLoss):
            layer_term(loss, kept, total, teacher_layers)
    return notes


def smallest_config(student: StudentSection, start: Checkpoint) -> dict[str, Any]:
    """The config of a student as it will be cut, with a vocabulary that is no larger than its own.

    Args:
        student: What it keeps of its start; :func:`check_student` has passed it.
        start: What it is cut from.
    """
    config = _config_of(start)
    _, outcomes = _cut(config, read_architecture(start.path, config.to_dict()), student)
    of_corpus = {"vocab_size": 1} if student.vocabulary == "corpus" else {}
    return {**outcomes[0].to_dict(), **of_corpus}


def _config_of(checkpoint: Checkpoint) -> PreTrainedConfig:
    """As transformers has it, with what a file leaves out."""
    from transformers import CONFIG_MAPPING

    said = read_config(checkpoint.path)
    with refusals_named(checkpoint.path):
        config_class: type[PreTrainedConfig] = CONFIG_MAPPING[said["model_type"]]
        found: PreTrainedConfig = config_class.from_dict(said)
    return found


def _cut(
    config: PreTrainedConfig, architecture: str, student: StudentSection
) -> tuple[tuple[int, ...], list[PreTrainedConfig]]:
    """Cut the config as the student will be.

    Returns:
        The layers, as many as it will have, and what its config may be: all of the same sizes but
        for the first, which is as narrow as it will be.
    """
    total = config.num_hidden_layers
    outcomes = [config]
    if student.measures_layers:
        assert isinstance(student.layers, int)
        outcomes += _any_layers(config, architecture, student.layers)
        layers = tuple(range(student.layers))  # which ones is not known yet
    else:
        layers = chosen_layers(student, total)
    if student.layers is not None:
        keep_in_config(config, architecture, layers)
    if student.is_narrow:
        groups, channels, hidden = widths_to_keep(
            ARCHITECTURES[architecture].dimensions(config.to_dict()),
            heads=student.heads,
            mlp_channels=student.mlp_channels,
            hidden_size=student.hidden_size,
        )
        some = Kept((tuple(range(groups)),), (tuple(range(channels)),), tuple(range(hidden)))
        outcomes[0] = narrowed(config, architecture, some)
    return layers, outcomes


def _any_layers(config: PreTrainedConfig, architecture: str, count: int) -> list[PreTrainedConfig]:
    """What is left of a config by any layers in a row, which stand for those that may be chosen.

    Raises:
        ConfigError: the first ones, or others, cannot be exported.
    """
    total = config.num_hidden_layers
    check_count(count, total)
    outcomes = []
    for first in range(total - count + 1):
        outcomes.append(copy.deepcopy(config))
        try:
            keep_in_config(outcomes[-1], architecture, range(first, first + count))
        except ConfigError as exc:
            if first == 0:
                raise
            raise ConfigError(
                f"what student.layer_choice chooses may be no student: {exc.message}",
                hint=f"add --set student.layer_choice=first, or name them: {exc.hint}",
            ) from exc
    return outcomes
