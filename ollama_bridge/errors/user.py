"""What the user has to put right: recipes, options, names, rows, packages, folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ollama_bridge.errors.root import OllamaBridgeError


class ConfigError(OllamaBridgeError):
    """An option, name or setting is wrong."""

    exit_code = 2


class RecipeError(ConfigError):
    """A recipe has problems; all of them are listed, each with its key."""

    def __init__(self, source: str, problems: Sequence[str], *, hint: str | None = None) -> None:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(f"recipe {source} has {len(problems)} problem(s):\n{lines}", hint=hint)
        self.source = source
        self.problems = tuple(problems)


class ModelReferenceError(ConfigError):
    """A model reference such as ``ollama:tag`` or ``./dir`` cannot be read."""


class ModelfileError(ConfigError):
    """A Modelfile cannot carry what was asked of it."""


class MissingExtraError(ConfigError):
    """An optional part of the package is needed but not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the Python package {package!r}, which is not installed",
            hint=f"pip install 'ollama-bridge[{extra}]'",
        )
        self.package = package


class DataError(OllamaBridgeError):
    """Rows of the user's data cannot be used."""

    exit_code = 2


class ArtifactError(OllamaBridgeError):
    """An artefact folder is damaged, incomplete or in use by another process."""


class DiskFullError(ArtifactError):
    """There is no room to write; what is finished was kept.

    Args:
        path: What was written.
        elsewhere: How to have it written to another place.
    """

    def __init__(self, path: Path, *, elsewhere: str = "pass --out DIR on another disk") -> None:
        super().__init__(
            f"no space left on the device that holds {path}",
            hint=f"free some space or {elsewhere}; what is finished is kept",
        )
        self.path = path
