"""What a registry did not do."""

from __future__ import annotations

from ollama_bridge.errors.root import OllamaBridgeError


class RegistryError(OllamaBridgeError):
    """A registry cannot be reached, refuses, or breaks off.

    Args:
        status_code: The HTTP status; None where there was none.
    """

    exit_code = 6

    def __init__(
        self, message: str, *, hint: str | None = None, status_code: int | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.status_code = status_code


class RegistryBusyError(RegistryError):
    """A registry does not answer, breaks off or is overloaded; later it may be otherwise.

    Args:
        retry_after_s: How long it asks to be left alone; None where it does not say.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        status_code: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint, status_code=status_code)
        self.retry_after_s = retry_after_s


class RegistryContentError(RegistryError):
    """What a registry sent is damaged or hostile: a wrong digest, size or name."""
