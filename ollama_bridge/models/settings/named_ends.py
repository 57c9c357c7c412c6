"""Which tokens a checkpoint's files name as the ends of an answer: for its GGUF, and for the proof.

What one of both took for an end and the other did not, a sound tag was refused for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ollama_bridge.models.settings.json_files import added_tokens


def named_ends(
    generation: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    eos: int | None,
    is_special: Callable[[int], bool],
    turn_end: int | None = None,
) -> tuple[int, ...]:
    """Ids of all of them, each once; what is no number names none.

    A config that transformers made of a class has that class' default, such as 2, which is any
    piece of text in a vocabulary of its own. So where another file names an end, ``config.json``
    adds none but special tokens.

    Args:
        generation: ``generation_config.json``.
        eos: The tokenizer's own end.
        is_special: Of an id; see :func:`is_special_in`.
        turn_end: The token that the chat template writes behind an answer.
    """
    own = [*listed_ends(generation), *_ids(eos)]
    more = [id_ for id_ in listed_ends(config) if not own or id_ in own or is_special(id_)]
    return tuple(dict.fromkeys((*_ids(turn_end), *own, *more)))


def ignored_ends(
    generation: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    eos: int | None,
    is_special: Callable[[int], bool],
) -> tuple[int, ...]:
    """Ids that ``config.json`` names and :func:`named_ends` leaves out."""
    taken = named_ends(generation, config, eos=eos, is_special=is_special)
    return tuple(id_ for id_ in listed_ends(config) if id_ not in taken)


def is_special_in(document: Mapping[str, Any], token: int) -> bool:
    """Whether a token was added to a vocabulary as a special one."""
    return any(one["id"] == token and bool(one.get("special")) for one in added_tokens(document))


def listed_ends(source: Mapping[str, Any]) -> list[int]:
    """The ids that one file names."""
    return _ids(source.get("eos_token_id"))


def _ids(value: object) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [id_ for id_ in values if type(id_) is int]
