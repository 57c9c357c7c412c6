"""The daemon that a command asks: started where it does not run, its model loaded ahead."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from ollama_bridge.cli.progress import ConsoleReporter
from ollama_bridge.errors import OllamaBridgeError

if TYPE_CHECKING:
    from ollama_bridge.client import Client, Conversation


def connect(host: str | None) -> Client:
    """A client of the daemon, which is started, and that said, if it does not run."""
    from ollama_bridge.client import Client
    from ollama_bridge.daemon.ensure import ensure_daemon

    with ConsoleReporter() as reporter:
        return Client(ensure_daemon(reporter=reporter, host=host).host)


def load_ahead(client: Client, said: Conversation) -> None:
    """Load the model while the first question is not there yet, as that question will want it.

    What goes wrong is told when it is asked.
    """
    if said.keep_alive != 0:
        threading.Thread(target=_load, args=(client.host, said), daemon=True).start()


def _load(host: str, said: Conversation) -> None:
    from ollama_bridge.client import Client

    with contextlib.suppress(OllamaBridgeError), Client(host) as client:
        client.load(said.model, options=said.options, keep_alive=said.keep_alive)
