"""Reads the daemon's JSON field by field; a field of the wrong kind is an error of our own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from ollama_bridge.client.wire.refusals import CHECK_ADDRESS
from ollama_bridge.errors import ReplyInvalidError


@dataclass(frozen=True)
class Fields:
    """One JSON object of a reply. What is absent or null gives the default.

    Attributes:
        data: The object; its values are checked where they are read.
        where: Whose answer it is, for messages.
    """

    data: Mapping[str, Any]
    where: str

    def has(self, key: str) -> bool:
        """Whether there is a value."""
        return self.data.get(key) is not None

    def text(self, key: str, default: str = "") -> str:
        """A string."""
        value = self.data.get(key)
        if isinstance(value, str):
            return value
        if value is not None:
            self._refuse(key, "a text")
        return default

    def required_text(self, key: str) -> str:
        """A string that has to be there."""
        if not self.has(key):
            self._refuse(key, "a text")
        return self.text(key)

    def number(self, key: str, default: float = 0.0) -> float:
        """A finite number."""
        value = self.data.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._refuse(key, "a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            self._refuse(key, "a finite number")
        return number

    def whole(self, key: str) -> int:
        """A whole number; zero where there is none."""
        return int(self.number(key))

    def mapping(self, key: str) -> dict[str, Any]:
        """An object as it is; empty where there is none."""
        value = self.data.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._refuse(key, "an object")
        return dict(value)

    def inner(self, key: str) -> Fields:
        """An object, to be read further; empty where there is none."""
        value = self.data.get(key)
        return Fields(value if isinstance(value, dict) else self.mapping(key), self.where)

    def items(self, key: str) -> list[Fields]:
        """A list of objects."""
        return [read_fields(item, self.where) for item in self._list(key)]

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        found = self._list(key)
        if not all(isinstance(item, str) for item in found):
            self._refuse(key, "a list of texts")
        return tuple(found)

    def vectors(self, key: str) -> Iterator[tuple[float, ...]]:
        """A list of lists of finite numbers."""
        for item in self._list(key):
            try:
                found = tuple(map(float, item))
            except (TypeError, ValueError, OverflowError):
                self._refuse(key, "a list of vectors")
            if not (isinstance(item, list) and all(map(math.isfinite, found))):
                self._refuse(key, "a list of vectors of finite numbers")
            yield found

    def bytes(self, key: str) -> bytes | None:
        """A list of byte values."""
        if not self.has(key):
            return None
        try:
            return bytes(self._list(key))
        except (TypeError, ValueError):
            self._refuse(key, "a list of bytes")

    def _list(self, key: str) -> list[Any]:
        value = self.data.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self._refuse(key, "a list")
        return value

    def _refuse(self, key: str, wanted: str) -> NoReturn:
        value = self.data.get(key)
        found = "missing" if value is None else f"a {type(value).__name__}"
        raise ReplyInvalidError(
            f"the daemon's answer to {self.where}: {key!r} is {found}, not {wanted}",
            hint=CHECK_ADDRESS,
        )


def read_fields(data: object, where: str) -> Fields:
    """Take a value that has to be an object.

    Raises:
        ReplyInvalidError: it is something else.
    """
    if isinstance(data, dict):
        return Fields(data, where)
    raise ReplyInvalidError(
        f"the daemon's answer to {where} holds a {type(data).__name__} where an object belongs",
        hint=CHECK_ADDRESS,
    )
