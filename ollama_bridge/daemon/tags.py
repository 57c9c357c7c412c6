"""What stands behind a tag of a daemon."""

from __future__ import annotations

from ollama_bridge.client import Client
from ollama_bridge.errors import ModelNotFoundError


def full_name(tag: str) -> str:
    """A tag as the daemon lists it: with ``:latest`` where it has no version."""
    return tag if ":" in tag.rsplit("/", 1)[-1] else f"{tag}:latest"


def model_digest(client: Client, tag: str) -> str:
    """The digest of a tag's manifest, which changes when anything of the tag does.

    Raises:
        ModelNotFoundError: the daemon has no such tag.
    """
    wanted = full_name(tag)
    for model in client.list():
        if model.name == wanted:
            return model.digest
    raise ModelNotFoundError(
        f"the daemon has no model {tag!r}",
        status_code=404,
        model=tag,
        hint=f"ollama pull {tag}",
    )
