"""Which tokens a checkpoint's files name as the ends of an answer: for its GGUF, and for the proof.

What one of both took for an end and the other did not, a sound tag was refused for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def named_ends(
    generation: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    eos: int | None,
    turn_end: int | None = None,
) -> tuple[int, ...]:
    """Ids of all of them, each once; what is no number names none.

    Args:
        generation: ``generation_config.json``.
        config: ``config.json``.
        eos: The tokenizer's own end.
        turn_end: The token that the chat template writes behind an answer.
    """
    ids = [turn_end, *_listed(generation), eos, *_listed(config)]
    return tuple(dict.fromkeys(id_ for id_ in ids if type(id_) is int))


def _listed(source: Mapping[str, Any]) -> list[Any]:
    value = source.get("eos_token_id")
    return value if isinstance(value, list) else [value]
