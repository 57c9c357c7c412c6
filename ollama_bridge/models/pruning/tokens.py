"""The rows of embedding and output matrix that a smaller vocabulary needs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from ollama_bridge.errors import ConfigError
from ollama_bridge.models.architectures.layout import EMBEDDING, OUTPUT
from ollama_bridge.models.pruning.rebuilding import rebuilt
from ollama_bridge.models.pruning.vocabulary import Ids, Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# How a generation config says to sample.
_SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "top_h",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
)
# Lists of ids in a generation config that would mean other tokens afterwards.
_LISTS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "sequence_bias")


def keep_tokens(model: PreTrainedModel, vocabulary: Vocabulary) -> PreTrainedModel:
    """A model whose token ids are those of a trimmed vocabulary.

    Rows that no token used (fillers at the end) are gone too.

    Args:
        model: Of a supported architecture; it is left as it is.
        vocabulary: Trimmed from the model's own.

    Raises:
        ConfigError: its generation config names tokens in a way that cannot be renumbered.
    """
    rows = torch.from_numpy(vocabulary.source_ids)
    state = dict(model.state_dict())
    new_ids = vocabulary.new_ids(int(state[EMBEDDING].shape[0]))
    for name in (EMBEDDING, OUTPUT):
        if name in state:
            state[name] = state[name][rows].clone()
    config = copy.deepcopy(model.config)
    config.vocab_size = len(rows)
    _renumber(config, new_ids)
    trimmed = rebuilt(model, config, state)
    generation = copy.deepcopy(model.generation_config)
    check_generation_config(generation.to_dict())
    _renumber(generation, new_ids)
    _drop_unused_sampling(generation)
    trimmed.generation_config = generation
    return trimmed


def check_generation_config(config: Mapping[str, Any]) -> None:
    """Make sure that a generation config names tokens in ways that can be renumbered.

    Raises:
        ConfigError: it does not.
    """
    for name in _LISTS:
        if config.get(name):
            raise ConfigError(
                f"generation_config.json: {name} names tokens by id, which a smaller vocabulary "
                "renumbers",
                hint="remove it from the model, or set student.vocabulary to full",
            )


def _drop_unused_sampling(generation: Any) -> None:
    """Forget how to sample where nothing is sampled: transformers saves no changed config so."""
    if generation.do_sample is not True:
        for name in _SAMPLING:
            setattr(generation, name, None)


def token_ids_of(config: Mapping[str, Any]) -> set[int]:
    """Ids that a config gives a role, such as its end tokens."""
    found: set[int] = set()
    for value in _roles(config).values():
        found |= set(value) if isinstance(value, list) else {value}
    return found


def _roles(config: Mapping[str, Any]) -> dict[str, int | list[int]]:
    return {
        name: value
        for name, value in config.items()
        if name.endswith("_token_id") and isinstance(value, int | list)
    }


def _renumber(config: Any, new_ids: Ids) -> None:
    def new(id_: int) -> int | None:
        inside = 0 <= id_ < len(new_ids) and new_ids[id_] >= 0
        return int(new_ids[id_]) if inside else None

    for name, value in _roles(config.to_dict()).items():
        if isinstance(value, list):
            known = [id_ for id_ in map(new, value) if id_ is not None]
            setattr(config, name, known or None)
        else:
            setattr(config, name, new(value))
