"""Procedures: what is thrown into them, and what ends them."""

from __future__ import annotations

import asyncio

import pytest

from ollama_bridge.client.steps import Steps, drive, drive_async
from ollama_bridge.errors import DaemonError


def sums() -> Steps[int, int]:
    """Asks for two numbers, and for another one in place of an error."""
    total = yield 1
    try:
        total += yield 2
    except DaemonError:
        total += yield 3
    return total


def test_a_procedure_is_sent_what_came_and_thrown_what_failed() -> None:
    """The error of one step has another one done."""

    def fail_at_two(todo: int) -> int:
        if todo == 2:
            raise DaemonError("no", hint="none")
        return todo

    async def fail_at_two_async(todo: int) -> int:
        return fail_at_two(todo)

    assert drive(sums(), lambda todo: todo) == 3
    assert drive(sums(), fail_at_two) == 4
    assert asyncio.run(drive_async(sums(), fail_at_two_async)) == 4


def test_what_a_step_raises_is_never_taken_for_the_end() -> None:
    """A mocked transport whose answers have run out raises StopIteration."""
    with pytest.raises(StopIteration):
        drive(sums(), lambda todo: next(iter([])))
