"""A request, its answer and its time limits as values, and what an answer's status means.

No input or output here: ``transport`` sends and receives these.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ollama_bridge.client.wire.refusals import (
    BUSY,
    CHECK_ADDRESS,
    advice_on_status,
    error_text,
    rejection,
)
from ollama_bridge.errors import (
    ConfigError,
    DaemonBusyError,
    ReplyInvalidError,
    RequestRejectedError,
)


@dataclass(frozen=True)
class Timeouts:
    """Limits in seconds, all finite.

    Attributes:
        connect_s: Until the daemon accepts.
        load_s: Until a model is loaded (Ollama's own limit is 300).
        first_token_s: On top of it, until the first token of the answer.
        between_tokens_s: Between two pieces of an answer; also until an answer that needs no model.
        total_s: For the whole call; 24 times as long where files are moved (``pull``, ``push``,
            ``create``, uploads). Of many texts to embed for each request about some of them.

    Raises:
        ConfigError: a limit that is not finite, or not positive (``load_s`` may be 0).
    """

    connect_s: float = 5.0
    load_s: float = 300.0
    first_token_s: float = 300.0
    between_tokens_s: float = 60.0
    total_s: float = 3600.0

    def __post_init__(self) -> None:
        """Refuse what would wait for ever."""
        for name, limit_s in vars(self).items():
            is_number = isinstance(limit_s, int | float) and math.isfinite(limit_s)
            if not is_number or limit_s < 0 or (limit_s == 0 and name != "load_s"):
                raise ConfigError(
                    f"Timeouts({name}={limit_s!r}): a limit must be a finite, positive number of "
                    "seconds"
                )


# What an answer may wait for: nothing, a model that has to be loaded, or work on large files. What
# is asked beside a question does not even wait for a connection: the question may hold the last.
Patience = Literal["reply", "model", "files", "beside"]


@dataclass(frozen=True)
class Call:
    """One request.

    Attributes:
        part_of: Of one about some of many texts: how many are before them, and how many there are.
    """

    method: str
    path: str
    json: Mapping[str, Any] | None = None
    content: Iterable[bytes] | AsyncIterable[bytes] | None = None
    headers: Mapping[str, str] | None = None
    model: str | None = None
    patience: Patience = "reply"
    part_of: tuple[int, int] | None = None


@dataclass(frozen=True)
class Answer:
    """One whole reply."""

    status_code: int
    body: bytes


def check_status(answer: Answer, call: Call) -> None:
    """Raise the error for anything but a 2xx; a redirect is not followed.

    Raises:
        DaemonError: of the kind that the status means.
    """
    if 200 <= answer.status_code < 300:
        return
    try:
        message = error_text(decode(answer.body, call)) if answer.body.strip() else ""
    except ReplyInvalidError:
        shown = answer.body[:80].decode(errors="replace")
        # A proxy whose daemon restarts is as busy as a daemon that says so itself.
        kind = DaemonBusyError if answer.status_code in BUSY else RequestRejectedError
        raise kind(
            f"the daemon answered {answer.status_code} to {call.path}, but not in JSON: {shown!r}",
            status_code=answer.status_code,
            model=call.model,
            hint=advice_on_status(answer.status_code, says_why=False) or CHECK_ADDRESS,
        ) from None
    raise rejection(answer.status_code, message, model=call.model)


def decode(body: bytes, call: Call) -> Any:
    """Read a whole JSON body.

    Raises:
        ReplyInvalidError: it is none.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise ReplyInvalidError(
            f"the daemon's answer to {call.path} is not JSON: "
            f"{body[:60].decode(errors='replace')!r}",
            hint=CHECK_ADDRESS,
            model=call.model,
        ) from exc
