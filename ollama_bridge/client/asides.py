"""What is asked beside a question.

The context in use, the levels of thinking that a model has, and how much too long a prompt is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from ollama_bridge.client import calls
from ollama_bridge.client.demands import (
    ContextAsked,
    Known,
    check_context,
    check_level,
    level_asked,
)
from ollama_bridge.client.exchange import Call
from ollama_bridge.client.measuring import measuring
from ollama_bridge.client.transport import AsyncTransport, Transport
from ollama_bridge.client.values import RunningModel, read_details, read_running
from ollama_bridge.errors import (
    DaemonBusyError,
    DaemonError,
    ModelNotFoundError,
    RequestRejectedError,
)

_UNAUTHORIZED = 401
_LOOK = replace(calls.PS, patience="beside")


class Begun(Protocol):
    """A question whose answer has begun.

    Attributes:
        unchecked_context: What it asked for and nobody has looked at yet; None: nothing.
        ends_s: When it has to be done, by the monotonic clock.
    """

    unchecked_context: ContextAsked | None
    ends_s: float


def look_at_context(transport: Transport, question: Begun, known: Known) -> None:
    """Once a model and context: while it answers, the daemon says what it runs with.

    Args:
        transport: To the daemon.
        question: From now on it is looked at.
        known: What was looked at before.

    Raises:
        ContextReducedError: it is shorter.
    """
    asked, question.unchecked_context = question.unchecked_context, None
    if asked is None or asked in known:
        return
    running: Sequence[RunningModel] = ()
    with contextlib.suppress(DaemonError):  # who does not tell spoils no answer
        running = read_running(transport.json(_LOOK, question.ends_s))
    if check_context(asked, running):
        known.add(asked)


async def look_at_context_async(transport: AsyncTransport, question: Begun, known: Known) -> None:
    """:func:`look_at_context` without blocking."""
    asked, question.unchecked_context = question.unchecked_context, None
    if asked is None or asked in known:
        return
    running: Sequence[RunningModel] = ()
    with contextlib.suppress(DaemonError):
        running = read_running(await transport.json(_LOOK, question.ends_s))
    if check_context(asked, running):
        known.add(asked)


def look_at_level(transport: Transport, question: Call, known: Known, ends_s: float) -> None:
    """Once a model and level: since 0.34 the daemon takes its default for a level it lacks.

    Args:
        transport: To the daemon.
        question: What will be asked.
        known: What was looked at before.
        ends_s: When the question has to be done, by the monotonic clock.

    Raises:
        UnsupportedFeatureError: the daemon tells the model's levels, and it is none of them.
    """
    asked = level_asked(question)
    if asked is None or asked in known:
        return
    try:
        shown = transport.json(_look_up(asked[0]), ends_s)
        levels = read_details(shown).think_levels
    except DaemonError as error:  # spoils no answer
        if _is_for_good(error):
            known.add(asked)
        return
    check_level(asked, levels)
    known.add(asked)


async def look_at_level_async(
    transport: AsyncTransport, question: Call, known: Known, ends_s: float
) -> None:
    """:func:`look_at_level` without blocking."""
    asked = level_asked(question)
    if asked is None or asked in known:
        return
    try:
        shown = await transport.json(_look_up(asked[0]), ends_s)
        levels = read_details(shown).think_levels
    except DaemonError as error:
        if _is_for_good(error):
            known.add(asked)
        return
    check_level(asked, levels)
    known.add(asked)


def _look_up(model: str) -> Call:
    return replace(calls.show(model, verbose=False), patience="beside")


def _is_for_good(error: DaemonError) -> bool:
    """A gateway that lets no such request through; all else is looked at with the next question.

    A model that is not there may come, and be another one; so may a key.
    """
    return (
        isinstance(error, RequestRejectedError)
        and not isinstance(error, DaemonBusyError | ModelNotFoundError)
        and error.status_code < 500
        and error.status_code != _UNAUTHORIZED
    )


def measure(transport: Transport, error: DaemonError, question: Call, ends_s: float) -> None:
    """Say by how much a prompt is too long where the daemon does not.

    Args:
        transport: To the daemon.
        error: Gets the numbers.
        question: What was asked.
        ends_s: When it has to be done, by the monotonic clock.
    """
    if (unmeasured := measuring(error, question, ends_s)) is not None:
        ends_s = unmeasured.ends_s
        with contextlib.suppress(DaemonError):  # that it is too long is what has to be told
            unmeasured.tell([transport.json(part, ends_s) for part in unmeasured.calls])


async def measure_async(
    transport: AsyncTransport, error: DaemonError, question: Call, ends_s: float
) -> None:
    """:func:`measure` without blocking."""
    if (unmeasured := measuring(error, question, ends_s)) is not None:
        ends_s = unmeasured.ends_s
        with contextlib.suppress(DaemonError):
            unmeasured.tell([await transport.json(part, ends_s) for part in unmeasured.calls])
