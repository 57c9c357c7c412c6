"""Whole requests as a batch: each answered exactly once, by one daemon or several."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from ollama_bridge.client import model_check
from ollama_bridge.client.address import read_address
from ollama_bridge.client.asynchronous import AsyncClient
from ollama_bridge.client.batch import (
    Endpoint,
    daemons,
    question,
    run_batch,
    run_batch_async,
)
from ollama_bridge.client.batch_log import BatchLog, Outcome
from ollama_bridge.client.blocking import Client
from ollama_bridge.client.exchange import Timeouts
from ollama_bridge.client.jobs import Answered, BatchEvent, BatchLimits, GivenUp
from ollama_bridge.client.model_check import check_models, content_of, digest_of
from ollama_bridge.client.questions import Question, to_call
from ollama_bridge.client.records import reply_from_record
from ollama_bridge.client.requests import encode_body
from ollama_bridge.errors import ArtifactError, ConfigError, DaemonError

Concurrency = int | Literal["auto"]


def ask_all(
    requests: Sequence[Question],
    log_path: Path,
    *,
    hosts: Sequence[str] = (),
    concurrency: Concurrency = "auto",
    attempts: int = 3,
    retry_failed: bool = False,
    timeouts: Timeouts | None = None,
    api_key: str | None = None,
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
        attempts: Of each request.
        retry_failed: Ask again what earlier calls set aside; what was too long is in any case.
        timeouts: Of each request.
        api_key: For all daemons; None: ``OLLAMA_API_KEY``.

    Raises:
        ConfigError: a request that is none (with its number), or a model that is another one on
            another daemon.
        ModelNotFoundError: a daemon lacks a model, or it was replaced meanwhile: answers of up to
            30 s before that was seen are in the log as those of the model that was there first.
        ArtifactError: another process writes the log, or it is damaged.
        DaemonError: no daemon is left; what was settled is kept.
    """
    plan = _Plan(requests, hosts, concurrency, attempts, api_key)
    with BatchLog(log_path, retry_failed=retry_failed) as log:
        yield from plan.before(log)
        for event in run_batch(plan.jobs, plan.endpoints(timeouts), log, plan.limits):
            yield from plan.told(event)


async def ask_all_async(
    requests: Sequence[Question],
    log_path: Path,
    *,
    hosts: Sequence[str] = (),
    concurrency: Concurrency = "auto",
    attempts: int = 3,
    retry_failed: bool = False,
    timeouts: Timeouts | None = None,
    api_key: str | None = None,
) -> AsyncGenerator[Answered | GivenUp, None]:
    """:func:`ask_all` for asyncio."""
    plan = await asyncio.to_thread(_Plan, requests, hosts, concurrency, attempts, api_key)
    with BatchLog(log_path, retry_failed=retry_failed) as log:
        for answered in plan.before(log):
            yield answered
        events = run_batch_async(plan.jobs, plan.endpoints(timeouts), log, plan.limits)
        async with contextlib.aclosing(events):
            async for event in events:
                for told in plan.told(event):
                    yield told


class _Plan:
    """What is asked where, all of it checked."""

    def __init__(
        self,
        requests: Sequence[Question],
        hosts: Sequence[str],
        concurrency: Concurrency,
        attempts: int,
        api_key: str | None,
    ) -> None:
        if concurrency != "auto" and concurrency < 1:
            raise ConfigError(f"concurrency is {concurrency}", hint="write auto, or 1 or more")
        if attempts < 1:
            raise ConfigError(f"attempts is {attempts}", hint="allow at least one")
        calls = []
        for number, request in enumerate(requests, start=1):
            try:
                calls.append(to_call(request))
                encode_body(calls[-1].json or {})
            except ConfigError as error:
                raise ConfigError(f"request {number}: {error.message}", hint=error.hint) from error
        urls = [read_address(host, api_key=api_key).url for host in hosts or (None,)]
        self._addresses = list(dict.fromkeys(urls))
        self._api_key = api_key
        models = {str(call.model) for call in calls}
        self._digests, self._away = _look(models, self._addresses, api_key) if calls else ({}, {})
        # Daemons that made a model themselves have other digests: one of them, in any order.
        identities = min(
            self._digests.values(), key=lambda found: sorted(found.items()), default={}
        )
        self.jobs = [
            question(call, identity=identities[str(call.model)], name=f"request {number}")
            for number, call in enumerate(calls, start=1)
        ]
        self.limits = BatchLimits(None if concurrency == "auto" else concurrency, attempts)
        self._places: dict[str, list[int]] = {}
        for index, job in enumerate(self.jobs):
            self._places.setdefault(job.key, []).append(index)

    def endpoints(self, timeouts: Timeouts | None) -> list[Endpoint[AsyncClient]]:
        """The daemons whose models are known."""
        there = daemons(list(self._digests), timeouts=timeouts, api_key=self._api_key)
        return [
            replace(one, check=partial(check_models, one.name, digests, self._api_key))
            for one, digests in zip(there, self._digests.values(), strict=True)
        ]

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
        else:
            yield from self._answered(event)

    def _answered(self, outcome: Outcome) -> Iterator[Answered]:
        reply = None
        if outcome.value is not None:
            try:
                reply = reply_from_record(outcome.value)
            except (KeyError, TypeError, ValueError, AttributeError) as exc:
                raise ArtifactError(
                    f"the log has an answer that is none (request {self._places[outcome.key][0]})",
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
            if len(away) == len(addresses):
                raise
            continue
        found[address] = {model: digest_of(model, there, address) for model in models}
    (first, digests), *others = found.items()
    for address, these in others:
        for model in (model for model in models if these[model] != digests[model]):
            if _content(model, address, api_key) != _content(model, first, api_key):
                raise ConfigError(
                    f"{model!r} is another model at {address} than at {first}",
                    hint="pull or copy the same one to every daemon",
                )
    return found, away


def _content(model: str, address: str, api_key: str | None) -> tuple[object, ...]:
    with Client(address, timeouts=model_check.SOON, api_key=api_key) as client:
        return content_of(client.show(model))
