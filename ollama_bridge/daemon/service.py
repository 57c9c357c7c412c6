"""Ollama's own service, which the official installer makes on Linux: it has another store.

A daemon that we start in its place would serve the user's own (empty) store, and keep the port from
the service, which systemd starts again and again.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from ollama_bridge.client import Address
from ollama_bridge.client.address import DEFAULT_PORT
from ollama_bridge.system_tools import output_of

_BOOTED = Path("/run/systemd/system")  # sd_booted(3)
_UNITS = Path("/etc/systemd/system")
_ASKED_LIMIT_S = 3.0
_OWN_STORE = (
    "or, for a daemon and a model store of your own: "
    f"export OLLAMA_HOST=127.0.0.1:{DEFAULT_PORT + 1}; or, to serve a store of your own at the "
    "service's address: export OLLAMA_MODELS=~/.ollama/models"
)


def is_service_s(address: Address) -> bool:
    """Whether an address is the enabled service's to serve, though it may not answer now."""
    if urlsplit(address.url).port != DEFAULT_PORT or os.environ.get("OLLAMA_MODELS"):
        return False
    # A service that was disabled is nobody's any more. Where it starts is a link in TARGET.wants.
    return _BOOTED.is_dir() and any(_UNITS.glob("*.wants/ollama.service"))


def describe_service() -> tuple[str, str]:
    """What is with the service that does not answer, and what helps."""
    told = output_of("systemctl", "is-active", "ollama", limit_s=_ASKED_LIMIT_S, may_fail=True)
    state = (told or "").strip()
    service = "Ollama's service, which has the models,"
    if state == "active":
        where = "systemctl show ollama -p Environment; export OLLAMA_HOST=(the one that it has)"
        return f"{service} runs, but not there", f"{where}; {_OWN_STORE}"
    if state in ("failed", "activating"):
        return f"{service} does not come up", f"journalctl -u ollama -n 50; {_OWN_STORE}"
    return f"{service} is stopped", f"sudo systemctl start ollama; {_OWN_STORE}"
