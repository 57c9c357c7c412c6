"""The file that holds a tag's weights, or why none does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ollama_bridge.errors import ModelError, ModelReferenceError
from ollama_bridge.models.sources.references import ModelReference

if TYPE_CHECKING:
    from ollama_bridge.client import Client


def file_of_tag(reference: ModelReference, client: Client | None) -> tuple[Path, str]:
    """Find it in the daemon's store.

    Returns:
        The file, and the sha256 that its name says; its bytes are not read.

    Raises:
        ModelReferenceError: there is no client.
        ModelError: it cannot be read here, or is not all that the tag serves.
        DaemonError: the daemon does not know the tag, or does not answer.
    """
    from ollama_bridge.daemon.store import locate_blob

    if client is None:
        raise ModelReferenceError(
            f"{reference} needs a daemon to ask", hint="pass client=Client() to resolve_model"
        )
    blob = locate_blob(client, reference.value)
    if blob.is_adapted:
        raise ModelError(
            f"{reference} is served with an ADAPTER: its weights are those of the base alone, "
            "without what was trained",
            hint="name what it was made from: the adapter's folder, with --base for its base; or "
            "the two merged",
        )
    if blob.path is None:
        raise ModelError(
            f"the weights of {reference} are in no model folder that can be read here",
            hint="run where the daemon's model folder is, as a user who can read it (OLLAMA_MODELS "
            "names it), or give the GGUF file",
        )
    return blob.path, blob.digest.removeprefix("sha256:")
