"""What takes several questions, written once and driven by either client.

A procedure is a generator: it yields what is to be done next, a :class:`Call` to ask or a
:class:`Use` of a tool, and is sent what came of it. It does no input or output of its own, so
the blocking and the asynchronous client run the same code.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from ollama_bridge.client.exchange import Call
from ollama_bridge.client.tools import Tool
from ollama_bridge.client.values import Reply, ToolCall
from ollama_bridge.errors import DaemonError

T = TypeVar("T")


@dataclass(frozen=True)
class Use:
    """A tool that the model asks for; what it gives comes back as text."""

    tool: Tool
    call: ToolCall


Steps = Generator[Call | Use, Any, T]


def drive(steps: Steps[T], *, ask: Callable[[Call], Reply], use: Callable[[Use], str]) -> T:
    """Run a procedure with a blocking client; errors of the daemon are thrown into it."""
    todo = next(steps)
    while True:
        try:
            try:
                came = ask(todo) if isinstance(todo, Call) else use(todo)
            except DaemonError as error:
                todo = steps.throw(error)
            else:
                todo = steps.send(came)
        except StopIteration as done:
            value: T = done.value
            return value


async def drive_async(
    steps: Steps[T],
    *,
    ask: Callable[[Call], Awaitable[Reply]],
    use: Callable[[Use], Awaitable[str]],
) -> T:
    """:func:`drive` for an asynchronous client."""
    todo = next(steps)
    while True:
        try:
            try:
                came = await (ask(todo) if isinstance(todo, Call) else use(todo))
            except DaemonError as error:
                todo = steps.throw(error)
            else:
                todo = steps.send(came)
        except StopIteration as done:
            value: T = done.value
            return value
