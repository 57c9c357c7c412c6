"""Which model stands behind a name at a daemon, and whether it still does."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from shlex import quote

from ollama_bridge.client.asynchronous import AsyncClient
from ollama_bridge.client.exchange import Timeouts
from ollama_bridge.client.values import ModelDetails, ModelSummary, find_model
from ollama_bridge.errors import ModelNotFoundError

SOON = Timeouts(between_tokens_s=20.0)  # which models there are is told at once

_FILE = re.compile(r"sha256[:-]([0-9a-f]{64})")
_FORMAT = re.compile(r"^(?:RENDERER|PARSER) .*$", re.MULTILINE)


async def check_models(address: str, digests: Mapping[str, str], api_key: str | None) -> None:
    """Whether a daemon is there and has the same models still.

    Args:
        address: The daemon's.
        digests: Of each model's manifest there, when the work began.
        api_key: For the daemon; None: ``OLLAMA_API_KEY``.

    Raises:
        ModelNotFoundError: one is gone, or another one.
        DaemonError: it does not say which it has.
    """
    async with AsyncClient(address, timeouts=SOON, api_key=api_key) as client:
        there = await client.list()
    for model, digest in digests.items():
        if digest_of(model, there, address) != digest:
            raise ModelNotFoundError(
                f"{model!r} at {address} is no longer the model that it was when the work began",
                status_code=404,
                hint="run it again: the new model is asked what it has not answered yet",
                model=model,
            )


def digest_of(model: str, there: Sequence[ModelSummary], address: str) -> str:
    """The digest of a model's manifest.

    Args:
        model: Its name, as Ollama takes it.
        there: What the daemon lists.
        address: The daemon's, for the message.

    Raises:
        ModelNotFoundError: it is not there.
    """
    if (found := find_model(there, model)) is not None:
        return found.digest
    raise ModelNotFoundError(
        f"the daemon at {address} has no model {model!r}",
        status_code=404,
        hint=f"ollama-bridge pull {quote(model)}   (or look: ollama-bridge ls)",
        model=model,
    )


def content_of(details: ModelDetails) -> tuple[object, ...]:
    """What a model is made of: one that two daemons made by themselves is the same at both.

    Manifests of Ollama before 0.34 name the folder of their store, so digests of them differ.

    Args:
        details: Of the model at one daemon.

    Returns:
        What JSON can carry.
    """
    files, formats = (found.findall(details.modelfile) for found in (_FILE, _FORMAT))
    parameters = sorted(details.parameters.splitlines())
    turns = details.raw.get("messages")
    return files, formats, details.template, details.system, parameters, turns
