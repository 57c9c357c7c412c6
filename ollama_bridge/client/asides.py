"""What is asked beside a question: the context in use, and how much too long a prompt is."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from ollama_bridge.client import calls
from ollama_bridge.client.exchange import Call
from ollama_bridge.client.measuring import ContextAsked, check_context, measuring
from ollama_bridge.client.transport import AsyncTransport, Transport
from ollama_bridge.client.values import RunningModel, read_running
from ollama_bridge.errors import DaemonError


def look_at_context(
    transport: Transport, asked: ContextAsked, known: set[ContextAsked], ends_s: float
) -> None:
    """Once a model and context: while it answers, the daemon says what it runs with.

    Args:
        transport: To the daemon.
        asked: By the question.
        known: What was looked at before.
        ends_s: When the question has to be done, by the monotonic clock.

    Raises:
        ContextReducedError: it is shorter.
    """
    if asked in known:
        return
    running: Sequence[RunningModel] = ()
    with contextlib.suppress(DaemonError):  # who does not tell spoils no answer
        running = read_running(transport.json(calls.PS, ends_s))
    if check_context(asked, running):
        known.add(asked)


async def look_at_context_async(
    transport: AsyncTransport, asked: ContextAsked, known: set[ContextAsked], ends_s: float
) -> None:
    """:func:`look_at_context` without blocking."""
    if asked in known:
        return
    running: Sequence[RunningModel] = ()
    with contextlib.suppress(DaemonError):
        running = read_running(await transport.json(calls.PS, ends_s))
    if check_context(asked, running):
        known.add(asked)


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
            answers = [transport.json(part, ends_s) for part in unmeasured.calls]
            unmeasured.tell(answers, read_running(transport.json(calls.PS, ends_s)))


async def measure_async(
    transport: AsyncTransport, error: DaemonError, question: Call, ends_s: float
) -> None:
    """:func:`measure` without blocking."""
    if (unmeasured := measuring(error, question, ends_s)) is not None:
        ends_s = unmeasured.ends_s
        with contextlib.suppress(DaemonError):
            answers = [await transport.json(part, ends_s) for part in unmeasured.calls]
            unmeasured.tell(answers, read_running(await transport.json(calls.PS, ends_s)))
