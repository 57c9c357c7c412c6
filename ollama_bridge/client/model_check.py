"""Which model stands behind a name at a daemon, and whether it still does."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ollama_bridge.client.asynchronous import AsyncClient
from ollama_bridge.client.built_in import built_in_code
from ollama_bridge.client.model_names import require_model
from ollama_bridge.client.values import ModelDetails
from ollama_bridge.client.wire.exchange import Timeouts
from ollama_bridge.errors import DaemonError, DaemonUnreachableError, ModelNotFoundError

SOON = Timeouts(between_tokens_s=20.0)  # which models there are is told at once

_FILE = re.compile(r"sha256[:-]([0-9a-f]{64})")


async def check_models(address: str, digests: Mapping[str, str], api_key: str | None) -> None:
    """Whether a daemon is there and has the same models still.

    Args:
        digests: Of each model's manifest there, when the work began.
        api_key: For the daemon; None: ``OLLAMA_API_KEY``.

    Raises:
        ModelNotFoundError: one is gone, or another one.
        DaemonError: it does not say which it has.
    """
    async with AsyncClient(address, timeouts=SOON, api_key=api_key) as client:
        there = await client.list()
    for model, digest in digests.items():
        if require_model(there, model, address=address).digest != digest:
            raise ModelNotFoundError(
                f"{model!r} at {address} is no longer the model that it was when the work began",
                status_code=404,
                hint="run it again: the new model is asked what it has not answered yet",
                model=model,
            )


def none_answers(errors: Sequence[DaemonError]) -> DaemonError:
    """Of daemons none of which says what it has, one error that names all of them."""
    if len(errors) == 1:
        return errors[0]
    are_away = all(isinstance(error, DaemonUnreachableError) for error in errors)
    kind = DaemonUnreachableError if are_away else DaemonError
    said = "; ".join(error.message for error in errors)
    return kind(f"none of {len(errors)} daemons can be asked: {said}", hint=errors[-1].hint)


def content_of(details: ModelDetails) -> tuple[object, ...]:
    """What a model is made of: one that two daemons made by themselves is the same at both.

    Manifests of Ollama before 0.34 name the folder of their store, so digests of them differ.

    Args:
        details: Of the model at one daemon.

    Returns:
        What JSON can carry.
    """
    files = _FILE.findall(details.modelfile)
    formats = [f"{name} {code}" for name, code in built_in_code(details).items()]
    parameters = sorted(details.parameters.splitlines())
    turns = details.raw.get("messages")
    return files, formats, details.template, details.system, parameters, turns
