"""Decides what a batch asks next, and what a failure means.

Whose fault a failure is decides what happens:

- the endpoint's (nothing answers there, or it is too busy): the job goes back to the queue, the
  endpoint rests and is tried again. It is given up once it was silent for too long, or at once if
  it never answered or lacks the model.
- perhaps the job's (the runner crashed, a limit ran out, a stream broke): it is tried again later,
  *alone* on its endpoint, so that a job that crashes the runner takes no others along. After its
  last attempt it is set aside with its error.
- surely the job's (its prompt does not fit): set aside at once.

An endpoint that failed gets no job before it has answered a canary (``health``): one token, within
a limit of its own. Every ``quiet_s``, and once more at the end, each is asked without a model
whether it is there and still the same. One that accepts and is silent is found by its silence:
where it does not say so, and settled nothing for as long, its jobs are taken away from it.

Jobs are set aside for good only when their endpoint did something well afterwards: one that fails
job after job is given up, and costs no job. Before that it is asked a job that was answered
already, where there is one: done again, it shows that those between were at fault, however many.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ollama_bridge.client.jobs import health
from ollama_bridge.client.jobs.batch_log import BatchLog, Outcome
from ollama_bridge.client.jobs.jobs import Away, BatchEvent, BatchLimits, GivenUp, Job
from ollama_bridge.client.jobs.pacing import Pace, waited
from ollama_bridge.errors import (
    ConfigError,
    ContextOverflowError,
    DaemonBusyError,
    DaemonError,
    DaemonTimeoutError,
    DataError,
    RepetitionError,
    RequestRejectedError,
)
from ollama_bridge.storage.journal import JSONRecord

C = TypeVar("C")

_LONGEST_PAUSE_S = 8.0
_CANARY_ROWS = 3  # a canary may take as long as so many of the slowest row


@dataclass(eq=False)
class Lane(Generic[C]):
    """What the coordinator knows of one endpoint.

    Attributes:
        check: Asks whether it is there, without a model; None: there is no such question.
        failures: In a row.
        doubtful: Jobs that failed for the last time, until it is seen whose fault it was.
        silent_since_s: When it last began not to answer.
        rests_until_s: No job is started before.
        canary: Has to be answered before the next job is started; None: it is fit.
        does_again: The canary is a job that was answered before.
        heard_s: When something was last heard of it, or was first asked after a pause.
        checked_s: When it was last asked whether it is there.
        slowest_s: The longest that a job took.
        pace: How many jobs it has at a time.
        away: Why nobody answers there, until that was told.
        given_up: Why nothing is asked there any more.
    """

    name: str
    client: C
    check: Callable[[], Awaitable[object]] | None = None
    has_answered: bool = False
    is_away: bool = False
    failures: int = 0
    doubtful: list[tuple[Job[C], str]] = field(default_factory=list)
    silent_since_s: float | None = None
    rests_until_s: float = 0.0
    canary: Callable[[C], Awaitable[object]] | None = None
    does_again: bool = False
    heard_s: float = 0.0
    checked_s: float = 0.0
    slowest_s: float = 0.0
    away: DaemonError | None = None
    given_up: DaemonError | None = None
    pace: Pace = field(default_factory=lambda: Pace(1))


@dataclass(frozen=True)
class _Running(Generic[C]):
    lane: Lane[C]
    job: Job[C]
    began_s: float


class Coordinator(Generic[C]):
    """Starts jobs and settles them; see the module's text for the rules."""

    def __init__(
        self,
        jobs: Iterable[Job[C]],
        lanes: Sequence[Lane[C]],
        log: BatchLog,
        limits: BatchLimits,
        answered: Job[C] | None = None,
    ) -> None:
        self._fresh = deque(jobs)
        self._answered = answered
        self._suspects: deque[Job[C]] = deque()
        self._attempts: dict[str, int] = {}
        self._lanes = lanes
        for lane in lanes:
            lane.pace, lane.checked_s = Pace(limits.in_flight), time.monotonic()
        self._log = log
        self._limits = limits
        self._running: dict[asyncio.Task[JSONRecord], _Running[C]] = {}
        self._canaries: dict[asyncio.Task[None], Lane[C]] = {}
        self._checks: dict[asyncio.Task[None], Lane[C]] = {}
        self._gone: dict[str, DaemonError] = {}  # why jobs were taken away, by their keys

    async def run(self) -> AsyncGenerator[BatchEvent, None]:
        """Every outcome as it is committed."""
        try:
            while self._has_work():
                self._start()
                for task in await self._finished():
                    for event in self._take(task):
                        yield event
            await self._check_once_more()
            for lane in self._lanes:
                for outcome in self._accept_doubtful(lane):
                    yield outcome
        finally:
            tasks = [*self._running, *self._canaries, *self._checks]
            for task in tasks:
                if not task.cancelling():  # twice would break into the closing of its connection
                    task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _has_work(self) -> bool:
        # Whose fault it was that a job failed for the last time is work, too.
        undecided = any(lane.doubtful and lane.canary for lane in self._live)
        return bool(self._fresh or self._suspects or self._running or undecided)

    @property
    def _live(self) -> Sequence[Lane[C]]:
        return [lane for lane in self._lanes if lane.given_up is None]

    def _start(self) -> None:
        """Give every endpoint what it may have now."""
        if not self._live and not self._running:
            errors = [lane.given_up for lane in self._lanes if lane.given_up is not None]
            raise errors[-1]
        now_s = time.monotonic()
        for lane in self._live:
            mine = [one.job for one in self._running.values() if one.lane is lane]
            if lane.rests_until_s > now_s:
                continue
            if lane.canary is not None:
                # Behind jobs that are in flight it would only be seen how long those take.
                if not mine and lane not in self._canaries.values():
                    self._ask_canary(lane, lane.canary, now_s)
                continue
            # An endpoint that did not answer is tried with one job first, as a suspect is.
            alone = lane.silent_since_s is not None or any(
                job.key in self._attempts for job in mine
            )
            while self._fresh and len(mine) < (1 if alone else lane.pace.limit):
                mine.append(self._launch(lane, self._next_fresh(lane)))
            if self._suspects and not mine:
                self._launch(lane, self._suspects.popleft())
        for lane in self._live:
            self._watch(lane, now_s)

    def _next_fresh(self, lane: Lane[C]) -> Job[C]:
        """The next in order; after failures any other, as bad ones often stand side by side."""
        place = random.randrange(len(self._fresh)) if lane.failures > 1 else 0
        job = self._fresh[place]
        del self._fresh[place]
        return job

    def _launch(self, lane: Lane[C], job: Job[C]) -> Job[C]:
        async def ask() -> JSONRecord:
            return await job.run(lane.client)

        now_s = time.monotonic()
        if all(one.lane is not lane for one in self._running.values()):
            lane.heard_s = now_s
        self._running[asyncio.create_task(ask())] = _Running(lane, job, now_s)
        return job

    def _ask_canary(
        self, lane: Lane[C], canary: Callable[[C], Awaitable[object]], now_s: float
    ) -> None:
        async def ask() -> None:
            if lane.check is not None:
                await lane.check()
            await canary(lane.client)

        if lane.silent_since_s is None:
            lane.silent_since_s = now_s
        limit_s = max(self._limits.canary_s, _CANARY_ROWS * lane.slowest_s)
        # A job has the limits of its client, and a refusal is not enough.
        asked = ask() if lane.does_again else health.within(limit_s, ask(), name=lane.name)
        self._canaries[asyncio.create_task(asked)] = lane

    def _watch(self, lane: Lane[C], now_s: float) -> None:
        """Ask an endpoint at work from time to time whether it is there, and the same."""
        if lane.check is not None and self._is_watched(lane) and now_s >= self._next_check_s(lane):
            lane.checked_s = now_s
            asked = health.within(self._limits.quiet_s, lane.check(), name=lane.name)
            self._checks[asyncio.create_task(asked)] = lane

    def _is_watched(self, lane: Lane[C]) -> bool:
        busy = any(one.lane is lane for one in self._running.values())
        return lane.check is not None and busy and lane not in self._checks.values()

    def _next_check_s(self, lane: Lane[C]) -> float:
        return lane.checked_s + self._limits.quiet_s

    async def _check_once_more(self) -> None:
        """What was answered since the last check may be that of another model."""
        for lane in self._live:
            if lane.check is not None and lane.has_answered:
                try:
                    await health.within(self._limits.quiet_s, lane.check(), name=lane.name)
                except DaemonError as error:
                    if health.lacks_what_is_asked(error):
                        raise

    async def _finished(self) -> Iterable[asyncio.Task[Any]]:
        """Wait until something was answered, or it is time to ask again."""
        now_s = time.monotonic()
        due_s = [lane.rests_until_s for lane in self._live]
        due_s += [self._next_check_s(lane) for lane in self._live if self._is_watched(lane)]
        waits_s = [at_s - now_s for at_s in due_s if at_s > now_s]
        waiting: list[asyncio.Task[Any]] = [*self._running, *self._canaries, *self._checks]
        if not waiting:
            await asyncio.sleep(min(waits_s, default=0.0))
            return ()
        done, _ = await asyncio.wait(
            waiting, timeout=min(waits_s, default=None), return_when=asyncio.FIRST_COMPLETED
        )
        return done

    def _take(self, task: asyncio.Task[Any]) -> Iterator[BatchEvent]:
        """What came of a task that is over."""
        live = self._live
        if task in self._running:
            yield from self._settle(self._running.pop(task), task)
        elif task in self._canaries:
            yield from self._settle_canary(self._canaries.pop(task), task.exception())
        else:
            self._settle_check(self._checks.pop(task), task.exception())
        for lane in live:
            if lane.given_up is not None:
                if len(self._lanes) > 1:  # of the only one the error tells
                    yield GivenUp(lane.name, lane.given_up)
            elif lane.away is not None:
                yield Away(lane.name, lane.away, self._limits.outage_s)
            lane.away = None

    def _settle(self, running: _Running[C], task: asyncio.Task[JSONRecord]) -> Iterator[BatchEvent]:
        lane, job = running.lane, running.job
        lane.heard_s = time.monotonic()
        error = self._gone.pop(job.key) if task.cancelled() else task.exception()
        if error is None:
            lane.has_answered, self._answered = True, job
            lane.failures, lane.silent_since_s, lane.canary = 0, None, None
            lane.is_away = False
            lane.slowest_s = max(lane.slowest_s, lane.heard_s - running.began_s)
            value = task.result()
            units = float(value.get("generated_tokens") or 1)
            lane.pace.settled(units, lane.heard_s, waited(value))
            yield self._commit(job, value=value)
            yield from self._accept_doubtful(lane)
        elif isinstance(error, ContextOverflowError | RepetitionError | ConfigError | DataError):
            yield self._commit(job, error=health.told(error))
        elif not isinstance(error, DaemonError):
            raise error
        elif health.lacks_what_is_asked(error):
            self._return(job)
            self._give_up(lane, error)
        elif health.is_silence(error):
            self._return(job)
            self._rest(lane, error)
            lane.canary, lane.does_again = job.canary, False
        else:
            self._fail(lane, job, error)

    def _settle_canary(self, lane: Lane[C], error: BaseException | None) -> Iterator[BatchEvent]:
        """The endpoint is fit again, or not yet."""
        if error is None:
            lane.silent_since_s, lane.canary, lane.heard_s = None, None, time.monotonic()
            lane.is_away = False
            if lane.does_again:
                lane.failures = 0
            if lane.does_again or not (self._fresh or self._suspects):
                yield from self._accept_doubtful(lane)
        elif not isinstance(error, DaemonError):
            raise error
        elif health.lacks_what_is_asked(error):
            self._give_up(lane, error)
        elif health.is_silence(error) or isinstance(error, DaemonBusyError | DaemonTimeoutError):
            self._rest(lane, error)
        else:
            lane.silent_since_s = None
            lane.failures += 1
            lane.rests_until_s = time.monotonic() + self._pause_s(lane.failures)
            if lane.failures >= self._limits.failures_in_a_row:
                self._give_up(lane, error)

    def _settle_check(self, lane: Lane[C], error: BaseException | None) -> None:
        """An endpoint is there and fit, or its jobs are taken away from it."""
        is_quiet = time.monotonic() - lane.heard_s >= self._limits.quiet_s
        if error is None:
            lane.heard_s = time.monotonic()
            return
        if not isinstance(error, DaemonError):
            raise error
        if health.lacks_what_is_asked(error):
            self._give_up(lane, error)
        elif not is_quiet:
            return
        for task, one in self._running.items():
            if one.lane is lane and task.cancel():
                self._gone[one.job.key] = error

    def _fail(self, lane: Lane[C], job: Job[C], error: DaemonError) -> None:
        """It may be the job's fault, or the endpoint's."""
        lane.has_answered, lane.silent_since_s = True, None
        lane.failures += 1
        attempts = self._attempts.get(job.key, 0) + 1
        self._attempts[job.key] = attempts
        is_refusal = isinstance(error, RequestRejectedError) and error.status_code < 500
        if is_refusal or attempts >= self._limits.attempts:
            lane.doubtful.append((job, health.told(error)))
        else:
            self._suspects.append(job)
            lane.rests_until_s = time.monotonic() + self._pause_s(lane.failures)
        if not is_refusal:
            lane.canary, lane.does_again = job.canary, False
        most = self._limits.failures_in_a_row + lane.pace.limit - 1
        if lane.failures >= most and self._answered is not None:
            lane.canary, lane.does_again = self._answered.run, True
        elif lane.failures >= most and lane.given_up is None:
            error.message += f" ({job.name}, and others before it)"
            error.args = (error.message,)
            lane.given_up = error
        if lane.given_up is not None:
            self._give_up(lane, error)

    def _rest(self, lane: Lane[C], error: DaemonError) -> None:
        """Nobody is there, or too many are: later."""
        now_s = time.monotonic()
        if lane.silent_since_s is None:
            lane.silent_since_s = now_s
            lane.failures = 0
        if not (lane.is_away or isinstance(error, RequestRejectedError)):  # who is busy is there
            lane.is_away, lane.away = True, error
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
