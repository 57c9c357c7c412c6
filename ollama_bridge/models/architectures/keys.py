"""Reads an architecture's metadata keys of a GGUF, with an error that names the key."""

from __future__ import annotations

import math
import reprlib

from ollama_bridge.errors import GGUFError
from ollama_bridge.models.architectures.entries import shortest
from ollama_bridge.models.gguf.reader import GGUFContents


class Keys:
    """The ``ARCHITECTURE.*`` keys of a GGUF."""

    def __init__(self, contents: GGUFContents, architecture: str) -> None:
        self.contents = contents
        self.architecture = architecture

    def integer(self, key: str, default: int | None = None) -> int:
        """A positive whole number; a list of equal ones, one a layer, counts as one.

        Raises:
            GGUFError: missing, or something else.
        """
        value = self.get(key, default)
        if isinstance(value, list) and len(set(value)) == 1:
            value = value[0]
        if type(value) is not int or not 0 < value < 1 << 31:
            raise self.error(key, value, "a positive integer")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """A positive number, as the shortest decimal of its float32.

        Raises:
            GGUFError: missing, or something else.
        """
        value = self.get(key, default)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value < math.inf:  # type: ignore[operator]
            raise self.error(key, value, "a positive number")
        return shortest(float(value))  # type: ignore[arg-type]

    def get(self, key: str, default: object = None) -> object:
        """Whatever the key holds."""
        return self.contents.metadata.get(f"{self.architecture}.{key}", default)

    def error(self, key: str, value: object, expected: str) -> GGUFError:
        """A key that holds what it cannot."""
        return GGUFError(
            f"{self.contents.path}: {self.architecture}.{key} is {reprlib.repr(value)}, "
            f"expected {expected}"
        )
