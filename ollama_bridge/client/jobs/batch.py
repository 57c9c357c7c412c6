"""Whole requests as a batch: each answered exactly once, by one daemon or several."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from ollama_bridge.client import model_check
from ollama_bridge.client.asynchronous import AsyncClient
from ollama_bridge.client.blocking import Client
from ollama_bridge.client.jobs.batch_log import BatchLog, Outcome
from ollama_bridge.client.jobs.jobs import Answered, Away, BatchEvent, BatchLimits, GivenUp, Job
from ollama_bridge.client.jobs.records import reply_from_record
from ollama_bridge.client.jobs.runner import (
    Asks,
    Endpoint,
    daemons,
    question,
    run_batch,
    run_batch_async,
)
from ollama_bridge.client.model_check import content_of, none_answers
from ollama_bridge.client.model_names import require_model
from ollama_bridge.client.questions import Question, to_asking_call
from ollama_bridge.client.requests import encode_body
from ollama_bridge.client.wire.address import read_address
from ollama_bridge.client.wire.exchange import Timeouts
from ollama_bridge.digests import canonical_json, digest_text
from ollama_bridge.errors import ArtifactError, ConfigError, DaemonError

Concurrency = int | Literal["auto"]


def ask_all(
    requests: Sequence[Question],
    log_path: str | Path,
    *,
    hosts: Sequence[str] = (),
    concurrency: Concurrency = "auto",
    attempts: int = 3,
    retry_failed: bool = False,
    timeouts: Timeouts | None = None,
    api_key: str | None = None,
    on_away: Callable[[Away], None] | None = None,
) -> Generator[Answered | GivenUp, None, None]:
    """Answer every request; gives what the log has first, then each as it is settled.

    The log is synced to disk before an answer counts: killed at any moment, the same call goes on,
    and nothing that was settled is asked again. Requests that say the same are asked once. One
    that fails ``attempts`` times is set aside with its error, and the others go on.

    Args:
        requests: All are checked before any is asked.
        log_path: One process writes it at a time.
        hosts: Addresses of daemons that have the same models; empty: ``OLLAMA_HOST``, else the
            default port.
        concurrency: Requests at a time, a daemon; ``auto``: found by trying.
        retry_failed: Ask again what earlier calls set aside; what was too long is in any case.
        api_key: For all daemons; None: ``OLLAMA_API_KEY``.
        on_away: Hears of a daemon that stopped to answer and is waited for.

    Raises:
        ConfigError: a request that is none (with its number), or a model that is another one on
            another daemon.
        ModelNotFoundError: a daemon lacks a model, or it was replaced meanwhile: answers of up to
            30 s before that was seen are in the log as those of the model that was there first.
        ArtifactError: another process writes the log, or it is damaged.
        DaemonError: no daemon is left; what was settled is kept.
    """
    log_path = Path(log_path)
    plan = _Plan(requests, hosts, concurrency, attempts, api_key, is_begun=log_path.exists())
    with BatchLog(log_path, retry_failed=retry_failed) as log:
        plan.go_on(log)
        yield from plan.before(log)
        for event in run_batch(plan.jobs, plan.endpoints(timeouts), log, plan.limits):
            if isinstance(event, Away) and on_away is not None:
                on_away(event)
            yield from plan.told(event)


async def ask_all_async(
    requests: Sequence[Question],
    log_path: str | Path,
    *,
    hosts: Sequence[str] = (),
    concurrency: Concurrency = "auto",
    attempts: int = 3,
    retry_failed: bool = False,
    timeouts: Timeouts | None = None,
    api_key: str | None = None,
) -> AsyncGenerator[Answered | GivenUp, None]:
    """:func:`ask_all` for asyncio."""
    log_path = Path(log_path)
    is_begun = await asyncio.to_thread(log_path.exists)
    plan = await asyncio.to_thread(
        _Plan, requests, hosts, concurrency, attempts, api_key, is_begun=is_begun
    )
    with BatchLog(log_path, retry_failed=retry_failed) as log:
        plan.go_on(log)
        for answered in plan.before(log):
            yield answered
        events = run_batch_async(plan.jobs, plan.endpoints(timeouts), log, plan.limits)
        async with contextlib.aclosing(events):
            async for event in events:
                for told in plan.told(event):
                    yield told


class _Plan:
    """What is asked where, all of it checked.

    Attributes:
        jobs: Of each request, once :meth:`go_on` was called.
        limits: Of the batch.
    """

    def __init__(
        self,
        requests: Sequence[Question],
        hosts: Sequence[str],
        concurrency: Concurrency,
        attempts: int,
        api_key: str | None,
        *,
        is_begun: bool = False,
    ) -> None:
        if concurrency != "auto" and concurrency < 1:
            raise ConfigError(f"concurrency is {concurrency}", hint="write auto, or 1 or more")
        if attempts < 1:
            raise ConfigError(f"attempts is {attempts}", hint="allow at least one")
        self._calls = []
        for number, request in enumerate(requests, start=1):
            try:
                self._calls.append(to_asking_call(request))
                encode_body(self._calls[-1].json or {})
            except ConfigError as error:
                raise ConfigError(f"request {number}: {error.message}", hint=error.hint) from error
        urls = [read_address(host, api_key=api_key).url for host in hosts or (None,)]
        addresses = list(dict.fromkeys(urls))
        self._api_key = api_key
        models = {str(call.model) for call in self._calls}
        self._digests, self._away = _look(models, addresses, api_key) if models else ({}, {})
        self._is_shared = len(addresses) > 1
        self._identities = {
            model: self._identities_of(model, is_begun=is_begun) for model in models
        }
        self.jobs: list[Job[Asks]] = []
        self.limits = BatchLimits(None if concurrency == "auto" else concurrency, attempts)
        self._places: dict[str, list[int]] = {}

    def _identities_of(self, model: str, *, is_begun: bool) -> list[str]:
        """What a model may be called in the log; the first is for what is begun now.

        Daemons that made it themselves have other digests, and who of them is there today decides
        nothing of what was begun: so where several are asked it is what the model is made of.
        """
        of_tags = sorted({found[model] for found in self._digests.values()})
        if not (is_begun or self._is_shared):
            return of_tags
        for address in self._digests:
            with contextlib.suppress(DaemonError):  # a gateway may let no such request through
                content = _content(model, address, self._api_key)
                if not content[0]:  # no files that would tell it from others
                    break
                of_content = digest_text(canonical_json(content))
                return [of_content, *of_tags] if self._is_shared else [*of_tags, of_content]
        return of_tags

    def go_on(self, log: BatchLog) -> None:
        """Make the jobs: what the log has is found, and the rest called as that is."""
        begun: dict[str, str] = {}
        found: list[Job[Asks] | None] = []
        for number, call in enumerate(self._calls, start=1):
            model = str(call.model)
            for identity in self._identities[model]:
                job = question(call, identity=identity, name=f"request {number}")
                if job.key in log:
                    begun.setdefault(model, identity)
                    found.append(job)
                    break
            else:
                found.append(None)
        for index, (call, kept) in enumerate(zip(self._calls, found, strict=True)):
            model = str(call.model)
            identity = self._identities[model][0]
            if not self._is_shared:  # one daemon goes on as was begun
                identity = begun.get(model, identity)
            job = kept or question(call, identity=identity, name=f"request {index + 1}")
            self.jobs.append(job)
            self._places.setdefault(job.key, []).append(index)

    def endpoints(self, timeouts: Timeouts | None) -> list[Endpoint[AsyncClient]]:
        """The daemons whose models are known."""
        return daemons(self._digests, timeouts=timeouts, api_key=self._api_key)

    def before(self, log: BatchLog) -> Iterator[Answered | GivenUp]:
        """What was settled in an earlier run, and who takes no part."""
        yield from (GivenUp(address, error) for address, error in self._away.items())
        for key in self._places:
            if key in log:
                yield from self._answered(log.read(key))

    def told(self, event: BatchEvent) -> Iterator[Answered | GivenUp]:
        """An outcome, for every request that it answers."""
        if isinstance(event, GivenUp):
            yield event
        elif not isinstance(event, Away):
            yield from self._answered(event)

    def _answered(self, outcome: Outcome) -> Iterator[Answered]:
        reply = None
        if outcome.value is not None:
            try:
                reply = reply_from_record(outcome.value)
            except (KeyError, TypeError, ValueError, AttributeError) as exc:
                raise ArtifactError(
                    "the batch log is damaged: its answer to request "
                    f"{self._places[outcome.key][0] + 1} cannot be read",
                    hint="name another log, or remove that line from it",
                ) from exc
        for index in self._places[outcome.key]:
            yield Answered(index, reply, outcome.error, outcome.attempts)


def _look(
    models: set[str], addresses: Sequence[str], api_key: str | None
) -> tuple[Mapping[str, Mapping[str, str]], Mapping[str, DaemonError]]:
    """The digest of each model at each daemon, where they are the same; and who is not fit.

    A daemon that does not say which models it has gets no work: they might be others.
    """
    found: dict[str, Mapping[str, str]] = {}
    away: dict[str, DaemonError] = {}
    for address in addresses:
        try:
            with Client(address, timeouts=model_check.SOON, api_key=api_key) as client:
                there = client.list()
        except DaemonError as error:  # the others do its work
            away[address] = error
            continue
        found[address] = {
            model: require_model(there, model, address=address).digest for model in models
        }
    if not found:
        raise none_answers([*away.values()])
    (first, digests), *others = found.items()
    for address, these in others:
        for model in (model for model in models if these[model] != digests[model]):
            if _content(model, address, api_key) != _content(model, first, api_key):
                raise ConfigError(
                    f"{model!r} at {address} is not the same model as at {first}",
                    hint="pull or copy the same one to every daemon",
                )
    return found, away


def _content(model: str, address: str, api_key: str | None) -> tuple[object, ...]:
    with Client(address, timeouts=model_check.SOON, api_key=api_key) as client:
        return content_of(client.show(model))
