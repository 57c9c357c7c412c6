"""Who writes answers: a model in one or more daemons, or behind an OpenAI-compatible API."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ollama_bridge.artifacts import digest_text
from ollama_bridge.client import Client, calls
from ollama_bridge.client.batch import Asks, Endpoint, daemons, question
from ollama_bridge.client.jobs import GivenUp, Job
from ollama_bridge.client.model_check import SOON, check_models, digest_of
from ollama_bridge.client.openai_api import OpenAIClient, chat_completion
from ollama_bridge.client.requests import Asking
from ollama_bridge.client.values import ModelDetails
from ollama_bridge.config import TeacherSection
from ollama_bridge.errors import ConfigError, DaemonError
from ollama_bridge.examples import Message

TOP_LOGPROBS = 20  # the most that daemons report

_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")


@dataclass(frozen=True)
class AnswerLimits:
    """How an answer is to be written.

    Attributes:
        tokens: It has at most so many.
        temperature: 0: the likeliest token always.
        seed: For temperatures above 0.
        logprobs: Whether the likeliest tokens are reported with it.
    """

    tokens: int
    temperature: float
    seed: int
    logprobs: bool = False


@dataclass(frozen=True)
class Respondent:
    """A model that can be asked.

    Attributes:
        name: The model's, for messages and the data card.
        identity: Digest of what answers, so that another model under the name is other work.
        endpoints: Where it is asked.
        ask: Makes the job that gives a reply's record.
        scores: Whether it can be asked about text that it did not write.
        away: Who was named and takes no part, and why.
    """

    name: str
    identity: str
    endpoints: Sequence[Endpoint[Any]]
    ask: Callable[[Sequence[Message], AnswerLimits], Job[Any]]
    scores: bool = True
    away: Sequence[GivenUp] = ()


def in_daemons(tag: str, identity: str | None, hosts: Sequence[str]) -> Respondent:
    """A model in Ollama, which is watched: another one under its name is given no work.

    Args:
        tag: Its name, the same everywhere.
        identity: Digest of the tag; None: the one that it has at the first daemon that answers.
        hosts: Addresses of the daemons; those that do not answer take no part.

    Raises:
        ConfigError: two daemons have different models under that name.
        DaemonError: no daemon answers, or one has no such model.
    """
    digests, away = _look(tag, hosts)
    endpoints = [
        replace(one, check=partial(check_models, one.name, {tag: digests[one.name]}, None))
        for one in daemons(list(digests))
    ]
    identity = identity or next(iter(digests.values()))

    def ask(messages: Sequence[Message], limits: AnswerLimits) -> Job[Asks]:
        asking = Asking(
            options={
                "temperature": limits.temperature,
                "num_predict": limits.tokens,
                "seed": limits.seed,
            },
            top_logprobs=TOP_LOGPROBS if limits.logprobs else None,
        )
        call = calls.chat(tag, messages, asking, system=None, tools=None)
        return question(call, identity=identity)

    return Respondent(tag, identity, endpoints, ask, away=away)


def behind_api(model: str, base_url: str) -> Respondent:
    """A model behind an OpenAI-compatible API.

    Such an API gives no digest: another model under the same name at the same address is not
    noticed. The key comes from ``OPENAI_API_KEY``.

    Args:
        model: As the server calls it.
        base_url: Such as ``http://127.0.0.1:8000/v1``.

    Raises:
        ConfigError: no such address, or the key would be sent unencrypted to another machine.
    """
    identity = digest_text(f"{base_url.rstrip('/')} {model}")

    def ask(messages: Sequence[Message], limits: AnswerLimits) -> Job[Asks]:
        call = chat_completion(
            model,
            messages,
            max_tokens=limits.tokens,
            temperature=limits.temperature,
            seed=limits.seed,
            top_logprobs=TOP_LOGPROBS if limits.logprobs else None,
        )
        return question(call, identity=identity)

    endpoint = Endpoint(base_url, lambda: OpenAIClient(base_url))
    return Respondent(model, identity, [endpoint], ask, scores=False)


def _look(tag: str, hosts: Sequence[str]) -> tuple[Mapping[str, str], Sequence[GivenUp]]:
    """The digest of the tag at each daemon, where it is the same model; and who does not answer.

    Folders differ from daemon to daemon, so a Modelfile counts by the digests in it.
    """
    digests: dict[str, str] = {}
    away: list[GivenUp] = []
    wanted: object = None
    for host in hosts:
        with Client(host, timeouts=SOON) as client:
            try:
                there = client.list()
            except DaemonError as error:  # the others do its work
                away.append(GivenUp(host, error))
                continue
            digests[host] = digest_of(tag, there, host)
            found = _content(client.show(tag)) if len(hosts) > 1 else None
        if wanted is not None and found != wanted:
            raise ConfigError(
                f"{tag} is another model at {host} than at {next(iter(digests))}",
                hint=f"pull it again at both: OLLAMA_HOST={host} ollama pull {tag}",
            )
        wanted = found
    if not digests:
        raise away[-1].error
    return digests, away


def _content(details: ModelDetails) -> tuple[object, ...]:
    digests = tuple(_DIGEST.findall(details.modelfile))
    return digests, details.template, details.system, sorted(details.parameters.splitlines())


def find_respondent(settings: TeacherSection, client: Client) -> Respondent:
    """Who is asked: the model in one daemon or more, or behind an API.

    Args:
        settings: Say which model, and where.
        client: Of the daemon in use, for settings that name none.

    Raises:
        ConfigError: daemons have different models under the tag, or the API's address is none.
        DaemonError: no daemon answers, or one has no such model.
    """
    if settings.base_url is not None:
        return behind_api(settings.model, settings.base_url)
    tag = settings.model.removeprefix("ollama:")
    return in_daemons(tag, None, settings.hosts or (client.host,))


def why_not_here(settings: TeacherSection, client: Client) -> str | None:
    """Why the daemon in use cannot stand for who is asked; None: it has the very model.

    Of a model that it lacks, Ollama's ``create`` would pull whatever its registry has.

    Args:
        settings: Say who is asked.
        client: Of the daemon in use.
    """
    if settings.base_url is not None:
        return f"{settings.model} answers behind an API"
    hosts = tuple(dict.fromkeys((*settings.hosts, client.host)))
    try:
        find_respondent(settings.model_copy(update={"hosts": hosts}), client)
    except (ConfigError, DaemonError) as error:
        return error.message
    return None
