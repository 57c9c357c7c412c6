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

_BOOTED = Path("/run/systemd/system")  # sd_booted(3)
_UNITS = Path("/etc/systemd/system")
SERVICE_FIX = (
    "sudo systemctl start ollama; or, for a daemon and a model store of your own: "
    f"export OLLAMA_HOST=127.0.0.1:{DEFAULT_PORT + 1}"
)


def is_service_s(address: Address) -> bool:
    """Whether an address is the enabled service's to serve, though it may not answer now."""
    if urlsplit(address.url).port != DEFAULT_PORT or os.environ.get("OLLAMA_MODELS"):
        return False
    # A service that was disabled is nobody's any more. Where it starts is a link in TARGET.wants.
    return _BOOTED.is_dir() and any(_UNITS.glob("*.wants/ollama.service"))
