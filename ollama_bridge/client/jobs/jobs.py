"""What a batch works on: jobs, the limits it keeps, and what it tells."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ollama_bridge.client.jobs.batch_log import Outcome
from ollama_bridge.client.values import Reply
from ollama_bridge.errors import DaemonError
from ollama_bridge.storage.journal import JSONRecord

C_contra = TypeVar("C_contra", contravariant=True)


@dataclass(frozen=True)
class Job(Generic[C_contra]):
    """One piece of work.

    Attributes:
        key: Decided by the content; jobs of one key are one.
        run: Asks; gives what JSON can carry.
        canary: Asks for one token of the same kind; None: there is no such question.
        name: For messages.
    """

    key: str
    run: Callable[[C_contra], Awaitable[JSONRecord]]
    canary: Callable[[C_contra], Awaitable[object]] | None = None
    name: str = "a job"


@dataclass(frozen=True)
class BatchLimits:
    """Bounds of a batch. They do not change what an answer says.

    Attributes:
        in_flight: Jobs at a time, an endpoint; None: found by trying (``pacing``).
        attempts: Of one job.
        failures_in_a_row: After so many an endpoint is given up, unless it does again what was
            answered before; one crash that takes along all that was in flight counts once.
        outage_s: An endpoint that was silent for so long is given up.
        pause_s: Rest of an endpoint after a failure; doubles, up to 8 s.
        quiet_s: So often an endpoint is asked whether it is there, and has as long to say so; its
            jobs are taken away if it does not and settled nothing for as long.
        canary_s: For one token, loading included; three times the slowest job if that is more.
    """

    in_flight: int | None = 2
    attempts: int = 3
    failures_in_a_row: int = 5
    outage_s: float = 60.0
    pause_s: float = 0.5
    quiet_s: float = 30.0
    canary_s: float = 60.0


@dataclass(frozen=True)
class Answered:
    """What became of one request of a batch.

    Attributes:
        index: Its place among the requests.
        reply: None where it was set aside.
        error: Why it was set aside; None where it was answered.
        attempts: How often it was tried.
    """

    index: int
    reply: Reply | None
    error: str | None
    attempts: int


@dataclass(frozen=True)
class GivenUp:
    """Nothing is asked at this endpoint any more; the others do its work.

    Attributes:
        name: The endpoint's.
        error: Why.
    """

    name: str
    error: DaemonError


@dataclass(frozen=True)
class Away:
    """Nobody answers at this endpoint any more; it is tried again for a while.

    Attributes:
        name: The endpoint's.
        error: Why.
        within_s: It is given up if it is silent for so long.
    """

    name: str
    error: DaemonError
    within_s: float

    @property
    def text(self) -> str:
        """What to tell of it."""
        return (
            f"{self.name}: {self.error.message}; it is waited for, up to {self.within_s:g} s "
            f"({self.error.hint})"
        )


BatchEvent = Outcome | GivenUp | Away
