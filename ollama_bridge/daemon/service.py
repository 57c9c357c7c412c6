"""Ollama's own service, which the official installer makes on Linux: it has another store.

A daemon that we start in its place would serve the user's own (empty) store, and keep the port from
the service, which systemd starts again and again.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from urllib.parse import urlsplit

from ollama_bridge.client import Address
from ollama_bridge.client.wire.address import DEFAULT_PORT
from ollama_bridge.daemon.find import RunningDaemon, find_daemon
from ollama_bridge.reporting import Note, Reporter
from ollama_bridge.system_tools import output_of

_BOOTED = Path("/run/systemd/system")  # sd_booted(3)
_UNITS = Path("/etc/systemd/system")
_ASKED_LIMIT_S = 3.0
_START_LIMIT_S = 10.0
_POLL_INTERVAL_S = 0.2
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


def wait_for_service(host: str | None, reporter: Reporter) -> RunningDaemon | None:
    """The service's daemon; None: it is not about to answer.

    To systemd it is active from when it was begun, some seconds before it listens.

    Raises:
        OllamaBridgeError: as :func:`find_daemon` does.
    """
    if _state() not in ("active", "activating"):
        return None
    reporter.emit(
        Note("daemon", "info", "waiting for Ollama's service, which is running, to answer")
    )
    ends_s = time.monotonic() + _START_LIMIT_S
    while (found := find_daemon(host)) is None and time.monotonic() < ends_s:
        time.sleep(_POLL_INTERVAL_S)
    return found


def describe_service() -> tuple[str, str]:
    """What is with the service that does not answer, and what helps."""
    service, state = "Ollama's service, which has the models,", _state()
    if state == "active":
        where = "systemctl show ollama -p Environment; export OLLAMA_HOST=HOST:PORT, as it has it"
        return f"{service} is running, but not there", f"{where}; {_OWN_STORE}"
    if state in ("failed", "activating"):
        return f"{service} does not come up", f"journalctl -u ollama -n 50; {_OWN_STORE}"
    if state is None:  # nobody says how it is
        return f"{service} does not answer", f"sudo systemctl restart ollama; {_OWN_STORE}"
    return f"{service} is stopped", f"sudo systemctl start ollama; {_OWN_STORE}"


def _state() -> str | None:
    """What systemd says of it; None: nothing."""
    told = output_of("systemctl", "is-active", "ollama", limit_s=_ASKED_LIMIT_S, may_fail=True)
    return (told or "").strip() or None
