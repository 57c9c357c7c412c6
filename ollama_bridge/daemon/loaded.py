"""The models that a daemon holds in memory."""

from __future__ import annotations

from ollama_bridge.client import Client
from ollama_bridge.errors import ModelNotFoundError
from ollama_bridge.reporting import Note, Reporter


def unload_all(client: Client, reporter: Reporter) -> None:
    """Unload every model: a daemon that decodes beside torch makes both collapse.

    A model whose tag was deleted stays loaded until its time is over, and nobody can name it any
    more. Nobody can ask it either, so it only takes memory.

    Raises:
        DaemonError: the daemon fails.
    """
    for model in client.ps():
        try:
            client.unload(model.name)
        except ModelNotFoundError:
            message = f"{model.name} was deleted but stays in memory until {model.expires_at}"
            reporter.emit(Note("daemon", "info", message))
