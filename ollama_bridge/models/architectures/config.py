"""Reads a Hugging Face config, with an error that names the key."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from ollama_bridge.errors import ConversionError

Config = Mapping[str, Any]  # config.json, as read
_Kind = TypeVar("_Kind", int, float, str)


def integer(config: Config, key: str, default: int | None = None) -> int:
    """A positive whole number, below 2**31.

    Raises:
        ConversionError: missing, or something else.
    """
    value = config.get(key)
    value = default if value is None else value
    if type(value) is not int or not 0 < value < 1 << 31:  # what a GGUF has room for
        raise ConversionError(
            f"config.json: {key} is {value!r}, expected a positive integer below 2**31"
        )
    return value


def real(config: Config, key: str, default: float | None = None) -> float:
    """A positive number.

    Raises:
        ConversionError: missing, or something else.
    """
    value = config.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConversionError(f"config.json: {key} is {value!r}, expected a positive number")
    return float(value)


def mapping(config: Config, key: str) -> Mapping[str, Any]:
    """An object; empty where there is none.

    Raises:
        ConversionError: something else.
    """
    value = config.get(key) or {}
    if not isinstance(value, Mapping):
        raise ConversionError(f"config.json: {key} is {value!r}, expected an object")
    return value


def listed(config: Config, key: str, kind: type[_Kind]) -> list[_Kind] | None:
    """A list of one kind of value, ``float`` for any number; None where there is none.

    Raises:
        ConversionError: something else.
    """
    value = config.get(key)
    if value is None:
        return None
    kinds = (int, float) if kind is float else (kind,)
    if not isinstance(value, list) or not all(isinstance(one, kinds) for one in value):
        what = "texts" if kind is str else "numbers"
        raise ConversionError(f"config.json: {key} is {value!r:.80}, expected a list of {what}")
    return list(value)


def require(config: Config, key: str, *allowed: object, default: object = None) -> None:
    """Refuse a setting that the GGUF has no word for.

    Args:
        allowed: The values that llama.cpp computes with.
        default: What a missing key means.

    Raises:
        ConversionError: another value.
    """
    value = config.get(key, default)
    if value not in allowed:
        wanted = " or ".join(repr(choice) for choice in allowed)
        raise ConversionError(
            f"config.json: {key} is {value!r}; Ollama computes this architecture with {wanted}"
        )
