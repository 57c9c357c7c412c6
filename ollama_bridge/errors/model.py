"""What is wrong with a model: its files, its training, what is served of it."""

from __future__ import annotations

from collections.abc import Sequence

from ollama_bridge.errors.root import OllamaBridgeError


class ModelError(OllamaBridgeError):
    """A checkpoint or GGUF cannot be used."""

    exit_code = 4


class UnsafeCheckpointError(ModelError):
    """A checkpoint that would run code when loaded (pickle, remote code)."""


class UnsupportedArchitectureError(ModelError):
    """An architecture that this package cannot read, train or convert."""

    def __init__(self, architecture: str, supported: Sequence[str], *, where: str) -> None:
        super().__init__(
            f"{where}: architecture {architecture!r} is not supported "
            f"(supported: {', '.join(supported)})",
            hint="start from a checkpoint of a supported architecture",
        )
        self.architecture = architecture


class GGUFError(ModelError):
    """A GGUF file is truncated, damaged or hostile, or says what is not read."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(
            message,
            hint=hint
            or "get the file again; if it is as its maker wrote it, use the Hugging Face folder "
            "that it was made from",
        )


class TrainingError(OllamaBridgeError):
    """Training cannot start, or went wrong."""

    exit_code = 4


class ConversionError(OllamaBridgeError):
    """A checkpoint cannot be written as asked."""

    exit_code = 4


class TemplateError(OllamaBridgeError):
    """A chat template is no template, does not end, or cannot be written in Go.

    Args:
        is_inexpressible: It is a good template, but Go cannot say what it does.
    """

    exit_code = 4

    def __init__(
        self, message: str, *, hint: str | None = None, is_inexpressible: bool = False
    ) -> None:
        super().__init__(message, hint=hint)
        self.is_inexpressible = is_inexpressible


class ParityError(OllamaBridgeError):
    """The daemon does not serve what was trained.

    Args:
        layer: Where the first difference lies: template, tokenizer, tensor, stop, sampling
            or provenance.
    """

    exit_code = 5

    def __init__(self, message: str, *, layer: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.layer = layer
