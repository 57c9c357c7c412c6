"""Lets a daemon push a tag, for which the tag has to have the name of where it goes to."""

from __future__ import annotations

import contextlib

from ollama_bridge.client import Client
from ollama_bridge.client.model_names import find_model
from ollama_bridge.client.wire.uploads import ProgressCallback
from ollama_bridge.errors import ConfigError, ModelNotFoundError


def push_as(
    client: Client,
    tag: str,
    name: str,
    *,
    digest: str,
    insecure: bool,
    on_progress: ProgressCallback,
) -> None:
    """Push a tag under a registry's name, which it has for the time of the push only.

    Where it has that name anyway, it keeps it.

    ``digest`` is that of the tag, as the daemon lists it.

    Raises:
        ConfigError: another model has the name.
        DaemonError: the daemon could not push it.
    """
    there = find_model(client.list(), name)
    if there is not None and there.digest == digest:
        # Its own name, or what a push left that was killed: which of them, nobody knows.
        client.push(name, insecure=insecure, on_progress=on_progress)
        return
    if there is not None:
        raise ConfigError(
            f"the daemon already has a {there.name}, which is another model",
            hint=f"publish that one: ollama-bridge publish {there.name} {name}; or remove it: "
            f"ollama rm {there.name}",
        )
    try:
        client.copy(tag, name)  # who is interrupted here may have copied already
        client.push(name, insecure=insecure, on_progress=on_progress)
    finally:
        with contextlib.suppress(ModelNotFoundError):
            client.delete(name)
