"""What is asked beside a question: the context in use, and the levels of thinking of a model."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from ollama_bridge.client import calls
from ollama_bridge.client.answers.demands import (
    ContextAsked,
    Known,
    check_context,
    check_level,
    level_asked,
)
from ollama_bridge.client.readers import read_details, read_running
from ollama_bridge.client.steps import Fetch, Fetching
from ollama_bridge.client.values import RunningModel
from ollama_bridge.client.wire.exchange import Call
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


def look_at_context(question: Begun, known: Known) -> Fetching[None]:
    """Once a model and context: while it answers, the daemon says what it runs with.

    Args:
        question: From now on it is looked at.

    Raises:
        ContextReducedError: it is shorter.
    """
    asked, question.unchecked_context = question.unchecked_context, None
    if asked is None or asked in known:
        return
    running: Sequence[RunningModel] = ()
    with contextlib.suppress(DaemonError):  # who does not tell spoils no answer
        running = read_running((yield Fetch(_LOOK, question.ends_s)))
    if check_context(asked, running):
        known.add(asked)


def look_at_level(question: Call, known: Known, ends_s: float) -> Fetching[None]:
    """Once a model and level: since 0.34 the daemon takes its default for a level it lacks.

    Args:
        ends_s: When the question has to be done, by the monotonic clock.

    Raises:
        UnsupportedFeatureError: the daemon tells the model's levels, and it is none of them.
    """
    asked = level_asked(question)
    if asked is None or asked in known:
        return
    look_up = replace(calls.show(asked[0], verbose=False), patience="beside")
    try:
        levels = read_details((yield Fetch(look_up, ends_s))).think_levels
    except DaemonError as error:  # spoils no answer
        if _is_for_good(error):
            known.add(asked)
        return
    check_level(asked, levels)
    known.add(asked)


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
