"""What every architecture has to say to become a GGUF: its keys and its tensors.

An architecture is a module with one class of this protocol and one line in
``ollama_bridge.conversion.stage``; encoding, tokenizer and file writing are shared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gguf.constants import GGUFValueType
from torch import Tensor

from ollama_bridge.errors import ConversionError
from ollama_bridge.models.weights import Weights


@dataclass(frozen=True)
class Entry:
    """One metadata key of a GGUF.

    Attributes:
        key: Its full name.
        value: A number, bool, text, or a list of one kind.
        type: Of the value.
        element_type: Of a list's elements.
    """

    key: str
    value: Any
    type: GGUFValueType
    element_type: GGUFValueType | None = None


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of the GGUF, and how to get it when its turn comes.

    Attributes:
        name: In the GGUF.
        shape: Rows first.
        load: Gives the values; called once.
    """

    name: str
    shape: tuple[int, ...]
    load: Callable[[], Tensor]


class Architecture(Protocol):
    """How one Hugging Face architecture is written."""

    @property
    def name(self) -> str:
        """``general.architecture``."""

    def entries(self, config: Mapping[str, Any]) -> list[Entry]:
        """The hyperparameters.

        Raises:
            ConversionError: something that the GGUF cannot say.
        """

    def tensors(self, config: Mapping[str, Any], weights: Weights) -> list[TensorPlan]:
        """Every tensor, in the file's order.

        Raises:
            ConversionError: a weight is missing, left over or of another shape.
        """


def text(key: str, value: str) -> Entry:
    """A text."""
    return Entry(key, value, GGUFValueType.STRING)


def number(key: str, value: int) -> Entry:
    """A count or an id."""
    return Entry(key, value, GGUFValueType.UINT32)


def real(key: str, value: float) -> Entry:
    """A float32."""
    return Entry(key, value, GGUFValueType.FLOAT32)


def flag(key: str, *, value: bool) -> Entry:
    """A bool."""
    return Entry(key, value, GGUFValueType.BOOL)


def array(key: str, values: Sequence[Any], element_type: GGUFValueType) -> Entry:
    """A list."""
    return Entry(key, list(values), GGUFValueType.ARRAY, element_type)


def config_integer(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A positive whole number of a config.

    Raises:
        ConversionError: missing, or something else.
    """
    value = config.get(key)
    value = default if value is None else value
    if type(value) is not int or value <= 0:
        raise ConversionError(f"config.json: {key} is {value!r}, expected a positive integer")
    return value
