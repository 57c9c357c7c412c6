"""What a Go template is put together from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Say:
    """Text that stands in the template; not empty."""

    text: str


@dataclass(frozen=True)
class Show:
    """An action that writes a value."""

    text: str


@dataclass(frozen=True)
class Code:
    """An action that writes nothing by itself."""

    text: str


Node = Say | Show | Code
