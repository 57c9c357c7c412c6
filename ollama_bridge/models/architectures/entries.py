"""Metadata of a GGUF as values: a key, what it holds and of which type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf.constants import GGUFValueType


@dataclass(frozen=True)
class Entry:
    """One metadata key of a GGUF."""

    key: str
    value: Any
    type: GGUFValueType
    element_type: GGUFValueType | None = None


def text(key: str, value: str) -> Entry:
    """A text."""
    return Entry(key, value, GGUFValueType.STRING)


def number(key: str, value: int) -> Entry:
    """A count or an id."""
    return Entry(key, value, GGUFValueType.UINT32)


def real(key: str, value: float) -> Entry:
    """A float32."""
    return Entry(key, value, GGUFValueType.FLOAT32)


def shortest(value: float) -> float:
    """The shortest decimal that is this float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def flag(key: str, *, value: bool) -> Entry:
    """A bool."""
    return Entry(key, value, GGUFValueType.BOOL)


def array(key: str, values: Sequence[Any], element_type: GGUFValueType) -> Entry:
    """A list."""
    return Entry(key, list(values), GGUFValueType.ARRAY, element_type)
