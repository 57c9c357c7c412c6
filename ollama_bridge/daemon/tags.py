"""What stands behind a tag of a daemon, and how that is replaced or taken away."""

from __future__ import annotations

import contextlib

from ollama_bridge.client import Client
from ollama_bridge.client.model_names import find_model, require_model
from ollama_bridge.errors import ModelNotFoundError, OllamaBridgeError

# Names that models have while they are proven, or tried; who is killed meanwhile leaves them.
CANDIDATES, TRIALS = "ollama-bridge/candidate:", "ollama-bridge/renderer:"


def model_digest(client: Client, tag: str) -> str:
    """The digest of a tag's manifest, which changes when anything of the tag does.

    Raises:
        ModelNotFoundError: the daemon has no such tag.
    """
    return require_model(client.list(), tag).digest


def remove_tag(client: Client, tag: str) -> None:
    """Take a tag away if it is there, with the files that no other needs."""
    # Unloaded although its tag may be the same file: a runner keeps the name that it was first
    # asked by, and under one that is gone nobody could look at it, or unload it.
    with contextlib.suppress(ModelNotFoundError):
        if any(model.name == tag for model in client.ps()):
            client.unload(tag)
        client.delete(tag)


def replace_tag(client: Client, source: str, tag: str, *, aside: str) -> None:
    """Give a tag what another has, and have the daemon remove what only the old one needed.

    Its ``copy`` leaves the replaced files behind: no tag names them, so nothing could remove them
    until the daemon starts anew. ``delete`` does, so the old one gets a name that can be deleted.

    Who is killed here leaves the old one behind as ``aside``.

    Raises:
        DaemonError: the tag is as it was.
    """
    models = client.list()
    old, new = find_model(models, tag), find_model(models, source)
    replaces = old is not None and (new is None or old.digest != new.digest)
    try:
        if replaces:
            client.copy(tag, aside)
        client.copy(source, tag)
    finally:
        if replaces:
            with contextlib.suppress(OllamaBridgeError):
                client.delete(aside)
