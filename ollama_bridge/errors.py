"""Every error that ollama_bridge raises on purpose, in one tree.

The branch says who has to act, the message what happened with the values that matter, and
``hint`` the next thing to type:

    OllamaBridgeError
    ├── ConfigError                 the recipe, an option or a name is wrong        exit 2
    │   ├── RecipeError             all problems of one recipe, with file and key
    │   ├── ModelReferenceError     a model reference that cannot be read
    │   ├── ModelfileError          a Modelfile that cannot say what was asked
    │   └── MissingExtraError       an optional part is not installed
    ├── DataError                   the user's rows are wrong                       exit 2
    ├── ArtifactError               a folder of ours is damaged, locked or full     exit 1
    │   └── DiskFullError
    ├── DaemonError                 Ollama did not do what was asked                exit 3
    │   ├── DaemonUnreachableError  nothing answers at that address
    │   ├── DaemonInstallError      no daemon could be found, built or started
    │   ├── RequestRejectedError    the daemon answered with an error status
    │   │   ├── ModelNotFoundError
    │   │   ├── ContextOverflowError    the prompt is too long; says by how many tokens
    │   │   ├── UnsupportedFeatureError the model cannot think, call tools, see, ...
    │   │   └── DaemonBusyError         try again later
    │   ├── RunnerCrashedError      the daemon reported a failure while answering
    │   ├── ContextReducedError     the model runs with a shorter context than was asked for
    │   ├── ReplyInvalidError       the answer is not what the API promises
    │   │   └── RenderingHiddenError  it does not say how it renders a prompt
    │   ├── StreamBrokenError       the answer ended without its terminal event
    │   ├── OutputInvalidError      no answer is what the schema asks for
    │   ├── ToolLoopError           the model never comes to an answer for calling tools
    │   └── DaemonTimeoutError      a finite limit ran out; ``phase`` says which
    ├── RegistryError               a registry did not do what was asked            exit 6
    │   ├── RegistryBusyError       it does not answer or breaks off: try again
    │   └── RegistryContentError    what it sent is not what it promised
    ├── ModelError                  a checkpoint or GGUF cannot be used             exit 4
    │   ├── UnsafeCheckpointError   pickle or remote code
    │   ├── UnsupportedArchitectureError
    │   └── GGUFError               damaged or hostile GGUF
    ├── TrainingError               training cannot start or went wrong             exit 4
    ├── ConversionError             a student cannot be written as asked            exit 4
    └── ParityError                 the daemon does not serve what was trained      exit 5

Catch everything at once with::

    try:
        build(recipe)
    except OllamaBridgeError as error:
        print(error, error.hint)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

# What a call was waiting for when it failed.
CallPhase = Literal["connect", "load", "first_token", "between_tokens", "total"]


class OllamaBridgeError(Exception):
    """Root of all errors of this package.

    Args:
        message: What happened, with the values that matter.
        hint: What to do about it: a command or an edit. Shown on a line of its own.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


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
        self.extra = extra


class DataError(OllamaBridgeError):
    """Rows of the user's data cannot be used."""

    exit_code = 2


class ArtifactError(OllamaBridgeError):
    """An artefact folder is damaged, incomplete or in use by another process."""


class DiskFullError(ArtifactError):
    """There is no room to write an artefact; nothing half-written was kept."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"no space left on the device that holds {path}",
            hint="free some space or pass --out DIR on another disk; finished stages are kept",
        )
        self.path = path


class DaemonError(OllamaBridgeError):
    """Ollama did not do what was asked.

    Args:
        model: The tag that was asked for, if any.
        partial_text: What had been received of the answer before the failure.

    Attributes:
        partial_thinking: What had been received of the thinking before it.
        phase: What the call was waiting for; None where it had come, or nothing was sent.
        attempts: How often it was tried.
    """

    exit_code = 3

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        model: str | None = None,
        partial_text: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.model = model
        self.partial_text = partial_text
        self.partial_thinking = ""
        self.phase: CallPhase | None = None
        self.attempts = 1


class DaemonUnreachableError(DaemonError):
    """Nothing answers at the daemon's address, or the connection was lost before an answer."""


class DaemonInstallError(DaemonError):
    """No daemon could be found, installed or started."""


class RequestRejectedError(DaemonError):
    """The daemon answered with an error status.

    Args:
        status_code: The HTTP status.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int,
        hint: str | None = None,
        model: str | None = None,
        partial_text: str = "",
    ) -> None:
        super().__init__(message, hint=hint, model=model, partial_text=partial_text)
        self.status_code = status_code


class ModelNotFoundError(RequestRejectedError):
    """The daemon has no model of that name."""


class ContextOverflowError(RequestRejectedError):
    """The prompt does not fit the context length; Ollama would have cut it silently.

    Attributes:
        needed_tokens: Length of the prompt; None where the daemon does not say.
        limit_tokens: Length of the context; None where the daemon does not say.
        is_estimate: The daemon did not say; parts of the prompt were counted.
    """

    needed_tokens: int | None = None
    limit_tokens: int | None = None
    is_estimate: bool = False


class UnsupportedFeatureError(RequestRejectedError):
    """The model cannot do this: think, call tools, look at images, embed."""


class DaemonBusyError(RequestRejectedError):
    """The daemon, or what stands before it, cannot answer now."""


class RunnerCrashedError(DaemonError):
    """The daemon reported a failure in the middle of an answer."""


class ContextReducedError(DaemonError):
    """The daemon runs the model with a shorter context than was asked for.

    Args:
        asked_tokens: ``num_ctx`` of the request.
        used_tokens: What the model runs with.
    """

    def __init__(
        self,
        message: str,
        *,
        asked_tokens: int,
        used_tokens: int,
        hint: str | None = None,
        model: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint, model=model)
        self.asked_tokens = asked_tokens
        self.used_tokens = used_tokens


class ReplyInvalidError(DaemonError):
    """The daemon's answer is not what its API promises (not JSON, a proxy's page, ...)."""


class RenderingHiddenError(ReplyInvalidError):
    """The daemon answers a conversation instead of showing how it renders it."""


class StreamBrokenError(DaemonError):
    """An answer ended without its terminal event; ``partial_text`` has what came."""


@dataclass(frozen=True)
class RefusedAnswer:
    """An answer that was not what was asked for, and why."""

    text: str
    problem: str


class OutputInvalidError(DaemonError):
    """No answer is what the schema asks for.

    Attributes:
        refused: Every answer, with what is wrong with it.
        prompt_tokens: Of all attempts together.
        generated_tokens: Of all attempts together, thinking included.
    """

    refused: tuple[RefusedAnswer, ...] = ()
    prompt_tokens: int = 0
    generated_tokens: int = 0


class ToolLoopError(DaemonError):
    """The model still calls tools when its limit of turns is reached.

    Attributes:
        messages: The conversation so far, tools and what they gave included.
    """

    messages: tuple[Mapping[str, Any], ...] = ()


class DaemonTimeoutError(DaemonError):
    """A finite time limit ran out.

    Args:
        phase: Which limit: connect, load, first_token, between_tokens or total.
        limit_s: Its length in seconds.
    """

    def __init__(
        self,
        message: str,
        *,
        phase: CallPhase,
        limit_s: float,
        hint: str | None = None,
        model: str | None = None,
        partial_text: str = "",
    ) -> None:
        super().__init__(message, hint=hint, model=model, partial_text=partial_text)
        self.phase: CallPhase = phase
        self.limit_s = limit_s


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
    """A GGUF file is truncated, damaged or hostile."""


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
