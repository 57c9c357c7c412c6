"""Waits for a registry's replies, and reads what stands there: addresses, reasons and wishes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from urllib.parse import urljoin, urlsplit

import httpx

from ollama_bridge.client.wire.deadlines import LimitUntil
from ollama_bridge.registry.credentials import hide

_MESSAGE_CHARS = 200


def await_header(http: httpx.Client, request: httpx.Request) -> httpx.Response:
    """Send a request and wait for the header of its reply: so long, however it drips.

    The client heeds a limit with an end (``deadlines.bound``). The read limit of the request holds
    for the whole header, then between two pieces of the body.

    Raises:
        httpx.HTTPError: the header did not come.
    """
    timeouts = request.extensions["timeout"]
    wait_s: float = timeouts["read"]

    def begin_waiting(event: str, _: object) -> None:
        # Not before: a body takes its time on a slow line. Of a proxy there is a header before it.
        if event == "http11.receive_response_headers.started":
            timeouts["read"] = LimitUntil(wait_s, time.monotonic() + wait_s)

    request.extensions["trace"] = begin_waiting
    response = http.send(request, stream=True)
    timeouts["read"] = wait_s
    return response


def whole_url(base: str, target: str) -> str:
    """A whole URL; empty where there is none, or none that could be read."""
    try:
        return urljoin(base, target) if target else ""
    except ValueError:
        return ""


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host and port; empty where they cannot be read."""
    try:
        parts = urlsplit(url)
        port = parts.port or (80 if parts.scheme == "http" else 443)
        return parts.scheme, (parts.hostname or "").lower(), port
    except ValueError:
        return "", "", 0


def read_retry_after_s(response: httpx.Response) -> float | None:
    """How long a registry wants to be left alone; None where it does not say."""
    text = response.headers.get("Retry-After", "")
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        until = datetime.strptime(text, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
    except ValueError:
        return None
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def read_reason(body: bytes, secrets: Iterable[str]) -> str:
    """What a registry says for itself: the first error of its list, or the beginning of a text."""
    try:
        first = json.loads(body)["errors"][0]
        text = f"{first.get('code', '')} {first.get('message', '')}"
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        text = body.decode(errors="replace")
    text = hide(text, secrets)  # before it is cut: half a secret would not be found
    shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return f": {shown[:_MESSAGE_CHARS]}" if shown else ""
