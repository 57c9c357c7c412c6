"""What a daemon did not do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ollama_bridge.errors.root import OllamaBridgeError

# What a call was waiting for when it failed.
CallPhase = Literal["connect", "load", "first_token", "between_tokens", "total"]


@dataclass(frozen=True)
class RefusedAnswer:
    """An answer that was not what was asked for, and why."""

    text: str
    problem: str


class DaemonError(OllamaBridgeError):
    """Ollama did not do what was asked.

    Args:
        model: The tag that was asked for, if any.
        partial_text: What had been received of the answer before the failure.

    Attributes:
        partial_thinking: What had been received of the thinking before it.
        phase: What the call was waiting for; None where it had come, or nothing was sent.
        attempts: How often it was tried.
        messages: In a loop of tools: the conversation so far, tools and what they gave included.
        refused: Where a value was asked for: the answers that were none, with what is wrong.
        prompt_tokens: Of those answers together.
        generated_tokens: Of those answers together, thinking included.
    """

    exit_code = 3
    refused: tuple[RefusedAnswer, ...] = ()
    prompt_tokens: int = 0
    generated_tokens: int = 0

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
        self.messages: tuple[Mapping[str, Any], ...] = ()


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
        limit_tokens: Length of the context; None where the daemon does not say, or it is the batch
            that is too short, in which a text to embed is read.
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


class RepetitionError(DaemonError):
    """Ollama ended an answer in which one token came again and again.

    It does so by itself, and up to 0.34.0 without a word: after 31 in a row, later after 101.
    ``partial_text`` has what came.

    Attributes:
        pieces: In how many it came, mostly of a token each.
    """

    pieces: int = 0


class OutputInvalidError(DaemonError):
    """No answer is what the schema asks for; ``refused`` has every one."""


class ToolLoopError(DaemonError):
    """The model still calls tools when its limit of turns is reached."""


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
