"""Decides what a batch asks next, and what a failure means.

Whose fault a failure is decides what happens:

- the endpoint's (nothing answers there, or it is too busy): the job goes back to the queue, the
  endpoint rests and is tried again. It is given up once it was silent for too long, or at once if
  it never answered or lacks the model.
- perhaps the job's (the runner crashed, a limit ran out, a stream broke): it is tried again later,
  *alone* on its endpoint, so that a job that crashes the runner takes no others along. After its
  last attempt it is set aside with its error.
- surely the job's (its prompt does not fit): set aside at once.

Jobs are set aside for good only when their endpoint did something well afterwards: one that fails
job after job is given up, and costs no job.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import httpx

from ollama_bridge.client.batch_log import BatchLog, Outcome
from ollama_bridge.client.pacing import Pace
from ollama_bridge.errors import (
    ConfigError,
    ContextOverflowError,
    DaemonError,
    DaemonTimeoutError,
    DaemonUnreachableError,
    DataError,
    ModelNotFoundError,
    OllamaBridgeError,
    RequestRejectedError,
)
from ollama_bridge.journal import JSONRecord

C = TypeVar("C")
C_contra = TypeVar("C_contra", contravariant=True)

_LONGEST_PAUSE_S = 8.0
_BUSY = frozenset({429, 503})
_FORBIDDEN = frozenset({401, 403})


@dataclass(frozen=True)
class Job(Generic[C_contra]):
    """One piece of work.

    Attributes:
        key: Decided by the content; jobs of one key are one.
        run: Asks; gives what JSON can carry.
    """

    key: str
    run: Callable[[C_contra], Awaitable[JSONRecord]]


@dataclass(frozen=True)
class BatchLimits:
    """Bounds of a batch. They do not change what an answer says.

    Attributes:
        in_flight: Jobs at a time, an endpoint; None: found by trying (``pacing``).
        attempts: Of one job.
        failures_in_a_row: After so many an endpoint is given up; one crash that takes along all
            that was in flight counts once.
        outage_s: An endpoint that was silent for so long is given up.
        pause_s: Rest of an endpoint after a failure; doubles, up to 8 s.
    """

    in_flight: int | None = 2
    attempts: int = 3
    failures_in_a_row: int = 5
    outage_s: float = 60.0
    pause_s: float = 0.5


@dataclass(frozen=True)
class GivenUp:
    """Nothing is asked at this endpoint any more; the others do its work.

    Attributes:
        name: The endpoint's.
        error: Why.
    """

    name: str
    error: DaemonError


BatchEvent = Outcome | GivenUp


@dataclass
class Lane(Generic[C]):
    """What the coordinator knows of one endpoint.

    Attributes:
        failures: In a row.
        doubtful: Jobs that failed for the last time, until it is seen whose fault it was.
        silent_since_s: When it last began not to answer.
        rests_until_s: No job is started before.
        pace: How many jobs it has at a time.
        given_up: Why nothing is asked there any more.
    """

    name: str
    client: C
    has_answered: bool = False
    failures: int = 0
    doubtful: list[tuple[Job[C], str]] = field(default_factory=list)
    silent_since_s: float | None = None
    rests_until_s: float = 0.0
    given_up: DaemonError | None = None
    pace: Pace = field(default_factory=lambda: Pace(1))


class Coordinator(Generic[C]):
    """Starts jobs and settles them; see the module's text for the rules."""

    def __init__(
        self,
        jobs: Iterable[Job[C]],
        lanes: Sequence[Lane[C]],
        log: BatchLog,
        limits: BatchLimits,
    ) -> None:
        self._fresh = deque(jobs)
        self._suspects: deque[Job[C]] = deque()
        self._attempts: dict[str, int] = {}
        self._lanes = lanes
        for lane in lanes:
            lane.pace = Pace(limits.in_flight)
        self._log = log
        self._limits = limits
        self._running: dict[asyncio.Task[JSONRecord], tuple[Lane[C], Job[C]]] = {}

    async def run(self) -> AsyncGenerator[BatchEvent, None]:
        """Every outcome as it is committed."""
        try:
            while self._fresh or self._suspects or self._running:
                self._start()
                for task in await self._finished():
                    lane, job = self._running.pop(task)
                    for outcome in self._settle(lane, job, task):
                        yield outcome
            for lane in self._lanes:
                for outcome in self._accept_doubtful(lane):
                    yield outcome
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    def _start(self) -> None:
        """Give every endpoint what it may have now."""
        live = [lane for lane in self._lanes if lane.given_up is None]
        if not live and not self._running:
            errors = [lane.given_up for lane in self._lanes if lane.given_up is not None]
            raise errors[-1]
        now_s = time.monotonic()
        for lane in live:
            if lane.rests_until_s > now_s:
                continue
            mine = [job for other, job in self._running.values() if other is lane]
            # An endpoint that did not answer is tried with one job first, as a suspect is.
            alone = lane.silent_since_s is not None or any(
                job.key in self._attempts for job in mine
            )
            while self._fresh and len(mine) < (1 if alone else lane.pace.limit):
                mine.append(self._launch(lane, self._fresh.popleft()))
            if self._suspects and not mine:
                self._launch(lane, self._suspects.popleft())

    def _launch(self, lane: Lane[C], job: Job[C]) -> Job[C]:
        async def ask() -> JSONRecord:
            return await job.run(lane.client)

        self._running[asyncio.create_task(ask())] = (lane, job)
        return job

    async def _finished(self) -> Iterable[asyncio.Task[JSONRecord]]:
        """Wait until a job is over, or an endpoint has rested."""
        now_s = time.monotonic()
        rests = [lane.rests_until_s - now_s for lane in self._lanes if lane.given_up is None]
        waits_s = [rest_s for rest_s in rests if rest_s > 0]
        if not self._running:
            await asyncio.sleep(min(waits_s, default=0.0))
            return ()
        done, _ = await asyncio.wait(
            self._running,
            timeout=min(waits_s) if waits_s else None,
            return_when=asyncio.FIRST_COMPLETED,
        )
        return done

    def _settle(
        self, lane: Lane[C], job: Job[C], task: asyncio.Task[JSONRecord]
    ) -> Iterator[BatchEvent]:
        error = task.exception()
        if error is None:
            lane.has_answered = True
            lane.failures, lane.silent_since_s = 0, None
            value = task.result()
            lane.pace.settled(float(value.get("generated_tokens") or 1), time.monotonic())
            yield self._commit(job, value=value)
            yield from self._accept_doubtful(lane)
        elif isinstance(error, ContextOverflowError | ConfigError | DataError):
            yield self._commit(job, error=_told(error))
        elif not isinstance(error, DaemonError):
            raise error
        elif _lacks_what_is_asked(error):
            self._return(job)
            self._give_up(lane, error)
        elif _is_silence(error):
            self._return(job)
            self._rest(lane, error)
        else:
            self._fail(lane, job, error)
        if lane.given_up is not None and error is lane.given_up:
            yield GivenUp(lane.name, lane.given_up)

    def _fail(self, lane: Lane[C], job: Job[C], error: DaemonError) -> None:
        """It may be the job's fault, or the endpoint's."""
        lane.has_answered, lane.silent_since_s = True, None
        lane.failures += 1
        attempts = self._attempts.get(job.key, 0) + 1
        self._attempts[job.key] = attempts
        is_refusal = isinstance(error, RequestRejectedError) and error.status_code < 500
        if is_refusal or attempts >= self._limits.attempts:
            lane.doubtful.append((job, _told(error)))
        else:
            self._suspects.append(job)
            lane.rests_until_s = time.monotonic() + self._pause_s(lane.failures)
        if lane.failures >= self._limits.failures_in_a_row + lane.pace.limit - 1:
            self._give_up(lane, error)

    def _rest(self, lane: Lane[C], error: DaemonError) -> None:
        """Nobody is there, or too many are: later."""
        now_s = time.monotonic()
        if lane.silent_since_s is None:
            lane.silent_since_s = now_s
            lane.failures = 0
        lane.failures += 1
        lane.has_answered |= isinstance(error, RequestRejectedError)
        if not lane.has_answered or now_s - lane.silent_since_s >= self._limits.outage_s:
            self._give_up(lane, error)
        lane.rests_until_s = now_s + self._pause_s(lane.failures)

    def _give_up(self, lane: Lane[C], error: DaemonError) -> None:
        lane.given_up = lane.given_up or error  # a second job may have been in flight
        # Another endpoint may do better with what failed here.
        self._suspects.extend(job for job, _ in lane.doubtful)
        lane.doubtful.clear()

    def _return(self, job: Job[C]) -> None:
        if job.key in self._attempts:
            self._suspects.appendleft(job)
        else:
            self._fresh.appendleft(job)

    def _accept_doubtful(self, lane: Lane[C]) -> Iterator[BatchEvent]:
        """The endpoint works, so it was the jobs' own fault."""
        while lane.doubtful:
            job, error = lane.doubtful.pop(0)
            yield self._commit(job, error=error)

    def _commit(
        self, job: Job[C], *, value: JSONRecord | None = None, error: str | None = None
    ) -> Outcome:
        failed = self._attempts.get(job.key, 0)
        outcome = Outcome(job.key, value, error, attempts=failed + (error is None) or 1)
        self._log.commit(outcome)
        return outcome

    def _pause_s(self, failures: int) -> float:
        longest_s = min(_LONGEST_PAUSE_S, self._limits.pause_s * 2.0 ** (failures - 1))
        return longest_s * random.uniform(0.5, 1.0)  # several clients should not come as one


def _told(error: OllamaBridgeError) -> str:
    return f"{type(error).__name__}: {error.message}"


def _lacks_what_is_asked(error: DaemonError) -> bool:
    return isinstance(error, ModelNotFoundError) or (
        isinstance(error, RequestRejectedError) and error.status_code in _FORBIDDEN
    )


def _is_silence(error: DaemonError) -> bool:
    """Whether the job cannot be the reason: it was not even heard."""
    if isinstance(error, DaemonUnreachableError):
        # A connection that was lost may be the job's doing: it may have crashed the daemon.
        return isinstance(error.__cause__, httpx.ConnectError)
    if isinstance(error, DaemonTimeoutError):
        return error.phase == "connect"
    return isinstance(error, RequestRejectedError) and error.status_code in _BUSY
