"""What stands behind a tag of a daemon."""

from __future__ import annotations

from ollama_bridge.client import Client
from ollama_bridge.client.values import find_model
from ollama_bridge.errors import ModelNotFoundError


def model_digest(client: Client, tag: str) -> str:
    """The digest of a tag's manifest, which changes when anything of the tag does.

    Raises:
        ModelNotFoundError: the daemon has no such tag.
    """
    if (found := find_model(client.list(), tag)) is not None:
        return found.digest
    raise ModelNotFoundError(
        f"the daemon has no model {tag!r}",
        status_code=404,
        model=tag,
        hint=f"ollama pull {tag}",
    )
