"""A model's cache of keys and values, which transformers calls otherwise since 5.24."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any


@functools.cache
def _name() -> str:
    """Of the argument and of the field of outputs; before 5.24 it was ``past_key_values``."""
    from transformers.modeling_outputs import BaseModelOutputWithPast

    fields = BaseModelOutputWithPast.__dataclass_fields__
    return "cache" if "cache" in fields else "past_key_values"


def as_argument(cache: Any) -> dict[str, Any]:
    """The cache, as a model or one of its layers is given it; None: there is none yet."""
    return {_name(): cache}


def cache_of(output: Any) -> Any:
    """What a model called with ``use_cache`` hands out."""
    return getattr(output, _name())


def cache_among(arguments: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The cache that a layer is given by its model, and its other arguments."""
    others = dict(arguments)
    return others.pop(_name(), None), others
