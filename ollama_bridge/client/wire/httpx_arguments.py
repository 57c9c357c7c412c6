"""Arguments that a caller wrote for httpx, as our own clients take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from ollama_bridge.client.wire.address import Address
from ollama_bridge.client.wire.exchange import Timeouts
from ollama_bridge.client.wire.transport import LIMITS

# As httpx, and so ollama-python: with more than 512 waiting, a daemon refuses some.
_AT_ONCE = 100


def kept_safe(kwargs: Mapping[str, Any], *, daemon: Address | None = None) -> dict[str, Any]:
    """Arguments of httpx: what is not said is as our own client has it.

    Args:
        daemon: Who is asked; None: somebody else, elsewhere. Proxies of the environment do not
            count between us and our own machine, but its certificates do.
    """
    safe = {"follow_redirects": False} | dict(kwargs)
    if daemon is not None and daemon.loopback and "trust_env" not in safe:
        safe["trust_env"] = False
        if daemon.url.startswith("https:") and "verify" not in safe:
            safe["verify"] = httpx.create_ssl_context()
    if safe.get("timeout") is None:  # of what does not go to the daemon
        safe["timeout"] = 60.0
    return safe


def unbounded(kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], int | None]:
    """Take the bound of connections out, so that it is kept by a transport of ours.

    Httpx would count what a question, which holds a connection, has asked beside it.

    Returns:
        The others, and the bound; None: there is none, or a transport of the caller's keeps it.
    """
    if "transport" in kwargs:
        return dict(kwargs), None
    limits: httpx.Limits | None = kwargs.get("limits")
    if limits is None:
        return {**kwargs, "limits": LIMITS}, _AT_ONCE
    free = httpx.Limits(
        max_keepalive_connections=limits.max_keepalive_connections,
        keepalive_expiry=limits.keepalive_expiry,
    )
    return {**kwargs, "limits": free}, limits.max_connections


def timeouts_of(timeout: Any) -> Timeouts:
    """Httpx's timeout, which bounds every silence, as limits of ours; None is not for ever."""
    if timeout is None:
        return Timeouts()
    found = httpx.Timeout(timeout)
    defaults = Timeouts()
    return Timeouts(
        connect_s=found.connect or defaults.connect_s,
        load_s=0.0 if found.read else defaults.load_s,
        first_token_s=found.read or defaults.first_token_s,
        between_tokens_s=found.read or defaults.between_tokens_s,
        total_s=max(defaults.total_s, found.read or 0.0),
    )
