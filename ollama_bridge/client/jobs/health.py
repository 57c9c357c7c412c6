"""Whether an endpoint is fit for work: what it is asked, and what its errors say.

A *canary* is the smallest question of a job's kind: one token of the same model with the same
options, so that nothing is loaded anew for it. A *check* needs no model at all, so a daemon that
works answers it at any time, however long its answers take.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace

import httpx

from ollama_bridge.client.wire.exchange import Call
from ollama_bridge.errors import (
    DaemonError,
    DaemonTimeoutError,
    DaemonUnreachableError,
    ModelNotFoundError,
    OllamaBridgeError,
    RequestRejectedError,
)

_OURS = ("/api/chat", "/api/generate")
_BUSY = frozenset({429, 503})
_FORBIDDEN = frozenset({401, 403})


def canary(call: Call) -> Call | None:
    """One token of the model that a question asks; None where it is no question of Ollama's."""
    body = call.json or {}
    if call.path not in _OURS:
        return None
    # As asked: with another shift or num_ctx the model would be loaded anew.
    found = {name: body[name] for name in ("model", "keep_alive", "shift") if name in body}
    found |= {
        "prompt": "1",
        "raw": True,
        "think": False,
        "truncate": False,
        "options": {**(body.get("options") or {}), "num_predict": 1, "stop": []},
    }
    return replace(call, path="/api/generate", json=found)


async def within(limit_s: float, asked: Awaitable[object], *, name: str) -> None:
    """Wait for a canary or a check; that it is refused is an answer too.

    Raises:
        DaemonError: the endpoint is not fit; DaemonTimeoutError: it accepts and says nothing.
    """
    try:
        async with asyncio.timeout(limit_s):
            await asked
    except TimeoutError:
        raise DaemonTimeoutError(
            f"{name} is silent: not even one token within {limit_s:g} s",
            phase="first_token",
            limit_s=limit_s,
            hint="restart it, or leave it out",
        ) from None
    except RequestRejectedError as error:
        if error.status_code >= 500 or lacks_what_is_asked(error) or is_silence(error):
            raise


def lacks_what_is_asked(error: DaemonError) -> bool:
    """Whether this endpoint will never answer it."""
    return isinstance(error, ModelNotFoundError) or (
        isinstance(error, RequestRejectedError) and error.status_code in _FORBIDDEN
    )


def is_silence(error: DaemonError) -> bool:
    """Whether the job cannot be the reason: it was not even heard."""
    if isinstance(error, DaemonUnreachableError):
        # A connection that was lost may be the job's doing: it may have crashed the daemon.
        return isinstance(error.__cause__, httpx.ConnectError)
    if isinstance(error, DaemonTimeoutError):
        return error.phase == "connect"
    return isinstance(error, RequestRejectedError) and error.status_code in _BUSY


def told(error: OllamaBridgeError) -> str:
    """An error as a row keeps it."""
    return f"{type(error).__name__}: {error.message}"
