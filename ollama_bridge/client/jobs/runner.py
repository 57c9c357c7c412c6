"""Many questions to one or more daemons, each settled exactly once in a durable log.

A *job* is a key and what to ask; an *endpoint* is a daemon, or whatever else can be asked. Jobs
are taken in any order, a few at a time an endpoint. What a job gives is committed to the log
before it counts, so after a kill at any moment the same call goes on: nothing is lost, and nothing
that was committed is asked again. (An answer that was not committed yet is asked for again:
exactly once is the commit, not the generation.) What happens after a failure: ``coordinator``.

Inside it is asyncio, because requests in flight must be cancelled when a batch ends early, which
blocked threads cannot be. The blocking surface runs that loop in a thread of its own, so that it
works where a loop is running already (notebooks).
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from ollama_bridge.client.asynchronous import AsyncClient
from ollama_bridge.client.jobs import health
from ollama_bridge.client.jobs.batch_log import BatchLog
from ollama_bridge.client.jobs.coordinator import C, Coordinator, Lane
from ollama_bridge.client.jobs.jobs import BatchEvent, BatchLimits, Job
from ollama_bridge.client.jobs.records import reply_to_record
from ollama_bridge.client.model_check import check_models
from ollama_bridge.client.values import Reply
from ollama_bridge.client.wire.exchange import Call, Timeouts
from ollama_bridge.client.wire.retries import NO_RETRIES
from ollama_bridge.digests import canonical_json, digest_text
from ollama_bridge.storage.journal import JSONRecord

C_co = TypeVar("C_co", covariant=True)


@dataclass(frozen=True)
class Endpoint(Generic[C_co]):
    """Something that can be asked.

    Attributes:
        name: For messages.
        open: Makes the client, inside the batch's event loop.
        check: Asks whether it is there and still fit, without a model and by a connection of its
            own; None: there is no such question.
    """

    name: str
    open: Callable[[], AbstractAsyncContextManager[C_co]]
    check: Callable[[], Awaitable[object]] | None = None


def daemons(
    hosts: Mapping[str, Mapping[str, str]],
    *,
    timeouts: Timeouts | None = None,
    api_key: str | None = None,
) -> list[Endpoint[AsyncClient]]:
    """Daemons that are watched for having the same models still.

    Args:
        hosts: By address, as ``OLLAMA_HOST`` is written: the digests of the models that are asked.
        api_key: For all of them; None: ``OLLAMA_API_KEY``.
    """
    # What happens after a failure is the batch's to decide.
    client = partial(AsyncClient, timeouts=timeouts, retries=NO_RETRIES, api_key=api_key)
    return [
        Endpoint(host, partial(client, host), partial(check_models, host, digests, api_key))
        for host, digests in hosts.items()
    ]


class Asks(Protocol):
    """A client that answers questions which were made before."""

    async def ask(self, call: Call) -> Reply:
        """The whole answer."""


def question(call: Call, *, identity: str = "", name: str = "a question") -> Job[Asks]:
    """One request of the API; its value is read by :func:`reply_from_record`.

    Args:
        call: Of ``calls.chat``, ``calls.generate`` or ``chat_completion``.
        identity: Digest of the model, so that another one under its name is asked anew.
    """
    content = {"path": call.path, "body": call.json, "identity": identity}

    async def run(client: Asks) -> JSONRecord:
        return reply_to_record(await client.ask(call))

    small = health.canary(call)
    canary = None if small is None else (lambda client: client.ask(small))
    return Job(digest_text(canonical_json(content)), run, canary, name)


def run_batch(
    jobs: Iterable[Job[C]],
    endpoints: Sequence[Endpoint[C]],
    log: BatchLog,
    limits: BatchLimits | None = None,
) -> Generator[BatchEvent, None, None]:
    """Settle every job that the log has not settled yet; gives each outcome as it is committed.

    An endpoint that is given up while others go on is told as an event too.

    What the log had before is not given again: ``log.read(key)`` has it. Closing the iterator, or
    Ctrl-C, cancels what is in flight.

    Args:
        endpoints: At least one.

    Raises:
        DaemonError: no endpoint is left; says what was wrong with the last one. What was settled
            is kept.
        DiskFullError: the log cannot grow; the same.
    """
    results = run_batch_async(jobs, endpoints, log, limits)
    found: queue.SimpleQueue[BatchEvent | BaseException | None] = queue.SimpleQueue()
    loop = asyncio.new_event_loop()

    async def forward() -> None:
        async with contextlib.aclosing(results):
            async for event in results:
                found.put(event)

    task = loop.create_task(forward())

    def work() -> None:
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            found.put(None)
        except BaseException as exc:  # raised where the events are read
            found.put(exc)
        else:
            found.put(None)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(asyncio.sleep(0))  # what was closed last is gone a turn later
            loop.close()

    thread = threading.Thread(target=work, name="batch")
    thread.start()
    try:
        while (event := found.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event
    finally:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nothing is left to cancel
            loop.call_soon_threadsafe(task.cancel)
        thread.join()


async def run_batch_async(
    jobs: Iterable[Job[C]],
    endpoints: Sequence[Endpoint[C]],
    log: BatchLog,
    limits: BatchLimits | None = None,
) -> AsyncGenerator[BatchEvent, None]:
    """The same for asyncio; see :func:`run_batch`."""
    jobs = list(jobs)
    todo = {job.key: job for job in jobs if job.key not in log}
    if not todo:
        return
    settled = (job for job in jobs if job.key in log)
    answered = next((job for job in settled if log.read(job.key).error is None), None)
    async with contextlib.AsyncExitStack() as stack:
        lanes = [
            Lane(endpoint.name, await stack.enter_async_context(endpoint.open()), endpoint.check)
            for endpoint in endpoints
        ]
        coordinator = Coordinator(todo.values(), lanes, log, limits or BatchLimits(), answered)
        results = coordinator.run()
        await stack.enter_async_context(contextlib.aclosing(results))
        async for event in results:
            yield event
