"""What takes several questions, written once and driven by either client.

A procedure is a generator: it yields what is to be done next and is sent what came of it; an error
of the daemon is thrown into it. It does no input or output of its own, so the blocking and the
asynchronous client run the same code.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from ollama_bridge.client.wire.exchange import Call
from ollama_bridge.client.wire.transport import AsyncTransport, Transport
from ollama_bridge.errors import DaemonError

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Fetch:
    """The JSON of a reply is needed.

    Attributes:
        call: What is asked.
        ends_s: When it has to be done, by the monotonic clock.
    """

    call: Call
    ends_s: float


@dataclass(frozen=True)
class Pause:
    """Nothing is to be done for so long, in seconds."""

    pause_s: float


Steps = Generator[S, Any, T]
Fetching = Steps[Fetch | Pause, T]


def drive(steps: Steps[S, T], do: Callable[[S], object]) -> T:
    """Run a procedure.

    Args:
        do: One step; gives what came of it.
    """
    go_on = functools.partial(next, steps)
    while True:
        try:
            todo = go_on()
        except StopIteration as done:
            value: T = done.value
            return value
        try:
            go_on = functools.partial(steps.send, do(todo))
        except DaemonError as error:
            go_on = functools.partial(steps.throw, error)


async def drive_async(steps: Steps[S, T], do: Callable[[S], Awaitable[object]]) -> T:
    """:func:`drive` without blocking."""
    go_on = functools.partial(next, steps)
    while True:
        try:
            todo = go_on()
        except StopIteration as done:
            value: T = done.value
            return value
        try:
            go_on = functools.partial(steps.send, await do(todo))
        except DaemonError as error:
            go_on = functools.partial(steps.throw, error)


def fetch(transport: Transport, steps: Fetching[T]) -> T:
    """Run a procedure that only asks for JSON."""

    def do(todo: Fetch | Pause) -> object:
        if isinstance(todo, Fetch):
            return transport.json(todo.call, todo.ends_s)
        time.sleep(todo.pause_s)
        return None

    return drive(steps, do)


async def fetch_async(transport: AsyncTransport, steps: Fetching[T]) -> T:
    """:func:`fetch` without blocking."""

    async def do(todo: Fetch | Pause) -> object:
        if isinstance(todo, Fetch):
            return await transport.json(todo.call, todo.ends_s)
        await asyncio.sleep(todo.pause_s)
        return None

    return await drive_async(steps, do)
