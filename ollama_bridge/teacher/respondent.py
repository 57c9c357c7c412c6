"""Who writes answers: a model in one or more daemons, or behind an OpenAI-compatible API."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any, NoReturn

from ollama_bridge.client import Client, calls
from ollama_bridge.client.jobs.jobs import GivenUp, Job
from ollama_bridge.client.jobs.runner import Asks, Endpoint, daemons, question
from ollama_bridge.client.model_check import SOON, content_of, none_answers
from ollama_bridge.client.model_names import require_model
from ollama_bridge.client.openai_api import OpenAIClient, chat_completion
from ollama_bridge.client.requests import Asking
from ollama_bridge.client.values import ModelDetails
from ollama_bridge.digests import canonical_json, digest_text
from ollama_bridge.errors import ArtifactError, ConfigError, DaemonError
from ollama_bridge.examples import Message
from ollama_bridge.recipe.config import TeacherSection
from ollama_bridge.reporting import Note, Reporter
from ollama_bridge.storage.artifacts import Manifest
from ollama_bridge.storage.atomic_files import write_text_atomic
from ollama_bridge.storage.drafts import draft_path

TOP_LOGPROBS = 20  # the most that daemons report

_Tools = Sequence[Mapping[str, Any]]

_ASKED_NAME = "resume-model"  # in a draft: the identity of who is asked


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
        ask: Makes the job that gives a reply's record; the last argument are the tools on offer.
        scores: Whether it can be asked about text that it did not write.
        away: Who was named and takes no part, and why.
        system: SYSTEM of its tag, which a question's own system prompt replaces.
        has_messages: Whether its tag has MESSAGEs, which stand before every question.
    """

    name: str
    identity: str
    endpoints: Sequence[Endpoint[Any]]
    ask: Callable[[Sequence[Message], AnswerLimits, _Tools], Job[Any]]
    scores: bool = True
    away: Sequence[GivenUp] = ()
    system: str = ""
    has_messages: bool = False


def in_daemons(tag: str, hosts: Sequence[str], *, known: Collection[str] = ()) -> Respondent:
    """A model in Ollama, which is watched: another one under its name is given no work.

    Its identity is the digest of its tag, or where daemons made the same model by themselves and
    have other digests, that of what it is made of.

    Args:
        tag: Its name, the same everywhere.
        hosts: Addresses of the daemons; those that do not answer take no part.
        known: Identities of earlier work, which the model may have had at other daemons: the
            first that can be its own is kept.

    Raises:
        ConfigError: two daemons have different models under that name.
        DaemonError: no daemon answers, or one has no such model.
    """
    digests, details, away = _look(tag, hosts)
    endpoints = daemons({host: {tag: digest} for host, digest in digests.items()})
    of_tags, of_content = set(digests.values()), digest_text(canonical_json(content_of(details)))
    usual = of_content if len(of_tags) > 1 else next(iter(of_tags))
    # Who is there today decides nothing of what was begun: all of these are this very model.
    identity = next((one for one in known if one in {*of_tags, of_content}), usual)
    return Respondent(
        tag,
        identity,
        endpoints,
        _asker(tag, identity),
        away=away,
        system=details.system,
        has_messages=bool(details.messages),
    )


def _asker(
    tag: str, identity: str
) -> Callable[[Sequence[Message], AnswerLimits, _Tools], Job[Asks]]:
    def ask(messages: Sequence[Message], limits: AnswerLimits, tools: _Tools) -> Job[Asks]:
        asking = Asking(
            options={
                "temperature": limits.temperature,
                "num_predict": limits.tokens,
                "seed": limits.seed,
            },
            top_logprobs=TOP_LOGPROBS if limits.logprobs else None,
        )
        call = calls.chat(tag, messages, asking, system=None, tools=tools)
        return question(call, identity=identity)

    return ask


def behind_api(model: str, base_url: str) -> Respondent:
    """A model behind an OpenAI-compatible API.

    Such an API gives no digest: another model under the same name at the same address is not
    noticed. The key comes from ``OPENAI_API_KEY``.

    Raises:
        ConfigError: no such address, or the key would be sent unencrypted to another machine.
    """
    identity = digest_text(f"{base_url.rstrip('/')} {model}")

    def ask(messages: Sequence[Message], limits: AnswerLimits, tools: _Tools) -> Job[Asks]:
        call = chat_completion(
            model,
            messages,
            max_tokens=limits.tokens,
            temperature=limits.temperature,
            seed=limits.seed,
            top_logprobs=TOP_LOGPROBS if limits.logprobs else None,
            tools=tools,
        )
        return question(call, identity=identity)

    endpoint = Endpoint(base_url, lambda: OpenAIClient(base_url))
    return Respondent(model, identity, [endpoint], ask, scores=False)


def _look(
    tag: str, hosts: Sequence[str]
) -> tuple[Mapping[str, str], ModelDetails, Sequence[GivenUp]]:
    """The digest of the tag at each daemon, what one tells of it, and who does not answer.

    Folders differ from daemon to daemon, so a Modelfile counts by the digests in it.
    """
    digests: dict[str, str] = {}
    away: list[GivenUp] = []
    first: ModelDetails | None = None
    for host in hosts:
        with Client(host, timeouts=SOON) as client:
            try:
                there = client.list()
            except DaemonError as error:  # the others do its work
                away.append(GivenUp(host, error))
                continue
            digests[host] = require_model(there, tag, address=host).digest
            details = client.show(tag)
        first = first or details
        if content_of(details) != content_of(first):
            raise ConfigError(
                f"{tag} is another model at {host} than at {next(iter(digests))}",
                hint=f"pull it again at both: OLLAMA_HOST={quote(host)} ollama pull {tag}",
            )
    if first is None:
        raise none_answers([one.error for one in away])
    return digests, first, away


def find_respondent(
    settings: TeacherSection, client: Client, *, known: Collection[str] = ()
) -> Respondent:
    """Who is asked: the model in one daemon or more, or behind an API.

    Raises:
        ConfigError: daemons have different models under the tag, or the API's address is none.
        DaemonError: no daemon answers, or one has no such model.
    """
    if settings.base_url is not None:
        return behind_api(settings.model, settings.base_url)
    tag = settings.model.removeprefix("ollama:")
    return in_daemons(tag, settings.hosts or (client.host,), known=known)


def find_or_recall(
    settings: TeacherSection, client: Client, folders: Sequence[Path], reporter: Reporter
) -> Respondent:
    """Who is asked; while it cannot be, who made what is finished, so that it is found again.

    What is begun or finished is gone on with whichever daemons are there. Whatever else would be
    asked of who is recalled fails as the looking did. ``folders`` are where what it said may lie.

    Raises:
        ConfigError: daemons have different models under the tag, or the API's address is none.
        DaemonError: no daemon answers, or one has no such model, and there is nothing finished.
    """
    tag = settings.model.removeprefix("ollama:")
    known = [identity for folder in folders for identity in _identities_in(folder)]
    try:
        return find_respondent(settings, client, known=known)
    except DaemonError as error:
        finished = next(filter(None, (_finished_by(tag, folder) for folder in folders)), None)
        if finished is None:
            raise
        message = f"{error.message}; what {tag} answered before is used"
        reporter.emit(Note("teacher", "warning", message))
        nobody = Endpoint[Any](tag, partial(_raise, error))
        return Respondent(tag, finished, [nobody], _asker(tag, finished))


def keep_identity(respondent: Respondent, draft: Path) -> None:
    """Note who is asked in a draft, so that a run that goes on with it asks as the same one."""
    write_text_atomic(draft / _ASKED_NAME, respondent.identity)


def _identities_in(folder: Path) -> Iterator[str]:
    """Of the models that said, or are just asked, what a folder has."""
    with contextlib.suppress(ArtifactError):
        identity = Manifest.read(folder).work.inputs.get("model")
        if identity is not None:
            yield identity
    with contextlib.suppress(FileNotFoundError):
        yield (draft_path(folder) / _ASKED_NAME).read_text(encoding="utf-8")


def _finished_by(tag: str, folder: Path) -> str | None:
    """The identity of a model whose answers, or labels, are complete in a folder."""
    try:
        manifest = Manifest.read(folder)
    except ArtifactError:
        return None
    return manifest.work.inputs.get("model") if manifest.facts.get("teacher") == tag else None


def _raise(error: DaemonError) -> NoReturn:
    raise error


def why_not_here(settings: TeacherSection, client: Client) -> str | None:
    """Why the daemon in use cannot stand for who is asked; None: it has the very model.

    Of a model that it lacks, Ollama's ``create`` would pull whatever its registry has.
    """
    if settings.base_url is not None:
        return f"{settings.model} answers behind an API"
    hosts = tuple(dict.fromkeys((*settings.hosts, client.host)))
    try:
        find_respondent(settings.model_copy(update={"hosts": hosts}), client)
    except (ConfigError, DaemonError) as error:
        return error.message
    return None
