"""A snapshot in Prometheus' text format, and a page that serves it.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/ (text, version 0.0.4).
"""

from __future__ import annotations

import ipaddress
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, get_args

from ollama_bridge.closing import Closing
from ollama_bridge.errors import ConfigError
from ollama_bridge.monitoring.snapshot import Snapshot, Trouble

_SILENCE_S = 10.0  # a connection that says nothing holds no thread for longer
_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Sample = tuple[dict[str, str], float]

# Of each kind of thing: name of the metric, what it tells, and the number.
_DAEMON = (
    ("answer_seconds", "How long the daemon took to answer.", "answer_s"),
    (
        "tokens_per_second",
        "Tokens a second that all runners were seen to generate.",
        "tokens_per_s",
    ),
    ("waiting_requests", "At least this many requests have no byte of an answer yet.", "waiting"),
    ("queued_requests", "At least this many of them are not being worked on.", "queued"),
)
_MODEL = (
    ("model_bytes", "Memory of a loaded model.", "size_bytes"),
    ("model_gpu_bytes", "Memory of a loaded model on GPUs.", "gpu_bytes"),
    ("model_context_tokens", "Context length of a loaded model.", "context_tokens"),
)
_RUNNER = (
    ("runner_memory_bytes", "Resident memory of a runner.", "memory_bytes"),
    ("runner_cpu_cores", "Cores that a runner keeps busy.", "cpu_share"),
    ("runner_stuck_seconds", "How long a runner has been busy without output.", "stuck_s"),
)
_TALKING_RUNNER = (  # one that tells of its requests
    ("runner_slots", "Requests that a runner can work on at once.", "slots"),
    ("runner_busy_requests", "Requests that a runner works on.", "busy"),
    ("runner_request_tokens", "Tokens generated for these requests so far.", "tokens"),
    ("runner_tokens_total", "Tokens that a runner was seen to generate.", "tokens_total"),
    (
        "runner_tokens_per_second",
        "Tokens a second that a runner was seen to generate.",
        "tokens_per_s",
    ),
    ("runner_partly_seen", "1 where there may have been more tokens, unseen.", "is_partial"),
)
_MACHINE = (
    ("cpu_share", "Share of all cores that is busy.", "cpu_share"),
    ("memory_used_bytes", "Memory in use.", "memory_used_bytes"),
    ("memory_bytes", "Total memory.", "memory_bytes"),
    ("swap_used_bytes", "Swap in use.", "swap_used_bytes"),
    (
        "swapped_in_bytes_total",
        "Read back from swap since the machine was started.",
        "swapped_in_total_bytes",
    ),
)
_HOTTEST = (
    ("temperature_celsius", "Temperature of the hottest sensor."),
    ("temperature_limit_celsius", "Temperature that this sensor calls high, or else critical."),
)
_GPU = (
    ("gpu_share", "Share of the time in which a GPU is busy.", "share"),
    ("gpu_memory_used_bytes", "Memory of a GPU in use.", "memory_used_bytes"),
    ("gpu_memory_bytes", "Total memory of a GPU.", "memory_bytes"),
    ("gpu_temperature_celsius", "Temperature of a GPU.", "temperature_c"),
)


def exposition(snapshot: Snapshot) -> str:
    """Every number of a snapshot, with its unit in its name."""
    lines = []
    for name, text, samples in _metrics(snapshot):
        if not samples:
            continue
        kind = "counter" if name.endswith("_total") else "gauge"
        lines += [f"# HELP ollama_{name} {text}", f"# TYPE ollama_{name} {kind}"]
        for labels, value in samples:
            shown = ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items())
            place = f"{{{shown}}}" if shown else ""
            lines.append(f"ollama_{name}{place} {float(value)!r}")
    return "\n".join(lines) + "\n"


def _metrics(seen: Snapshot) -> Iterator[tuple[str, str, list[Sample]]]:
    yield "up", "Whether the daemon answers.", [({}, float(seen.version is not None))]
    if seen.version is not None:
        labels = {"version": seen.version, "host": seen.host}
        yield "info", "The daemon that is watched.", [(labels, 1.0)]
    yield from _numbers(_DAEMON, [({}, seen)])
    models = [({"model": one.name, "id": _short(one.digest)}, one) for one in seen.loaded]
    yield from _numbers(_MODEL, models)
    until = [(labels, _timestamp_s(one.until)) for labels, one in models]
    yield (
        "model_until_timestamp_seconds",
        "When a model leaves memory.",
        [(labels, at_s) for labels, at_s in until if at_s is not None],
    )
    runners = [({"model": one.model or "", "pid": str(one.pid)}, one) for one in seen.runners]
    yield from _numbers(_RUNNER, runners)
    talking = [(labels, one) for labels, one in runners if one.slots is not None]
    yield from _numbers(_TALKING_RUNNER, talking)
    machine = seen.machine
    yield from _numbers(_MACHINE, [({}, machine)])
    for (name, text), value in zip(_HOTTEST, machine.hottest_c or (None, None), strict=True):
        yield name, text, [({}, value)] if value is not None else []
    yield from _numbers(
        _GPU, [({"gpu": f"{number} {gpu.name}"}, gpu) for number, gpu in enumerate(machine.gpus)]
    )
    kinds = [kind for kind, _ in seen.troubles()]
    yield (
        "alerts",
        "What is wrong; ollama-bridge monitor shows it in words.",
        [({"kind": kind}, kinds.count(kind)) for kind in get_args(Trouble)],
    )


def _numbers(
    metrics: Iterable[tuple[str, str, str]], things: Sequence[tuple[dict[str, str], object]]
) -> Iterator[tuple[str, str, list[Sample]]]:
    """Numbers of things that are alike; those that are not known are left out."""
    for name, text, attribute in metrics:
        found = [(labels, getattr(one, attribute)) for labels, one in things]
        yield name, text, [(labels, float(value)) for labels, value in found if value is not None]


def _timestamp_s(moment: str) -> float | None:
    """Of a moment as the daemon writes it (RFC 3339)."""
    try:
        return datetime.fromisoformat(moment).timestamp()
    except (ValueError, OverflowError):
        return None


def _short(digest: str) -> str:
    """As ``ollama ps`` shows it."""
    return digest.removeprefix("sha256:")[:12]


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Exporter(Closing):
    """Serves the newest text at ``/metrics``.

    Args:
        port: 0: any that is free.
        text: Asked at each request.
        host: Name or address of this machine at which it is heard; who reaches it may read.

    Attributes:
        url: Of the page.
        is_loopback: Whether this machine alone reaches it.

    Raises:
        ConfigError: the port is taken, or the address is none of this machine.
    """

    def __init__(self, port: int, text: Callable[[], str], *, host: str = "127.0.0.1") -> None:
        class Page(BaseHTTPRequestHandler):
            timeout = _SILENCE_S

            def do_GET(self) -> None:
                found = self.path.partition("?")[0] == "/metrics"
                body = (text() if found else "see /metrics\n").encode()
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", _CONTENT_TYPE)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Say nothing on stderr."""

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Whoever hung up needs no answer; what is wrong with us is told on stderr."""
                if not isinstance(sys.exception(), OSError):
                    super().handle_error(request, client_address)

        try:
            self._server = Server((host, port), Page)
        except (OSError, OverflowError, UnicodeError) as exc:  # the last of no host's name
            raise ConfigError(
                f"cannot listen on port {port} of {host}: {exc}",
                hint=f"choose another: --prometheus {9436 if port == 9435 else 9435}",
            ) from exc
        address, port = self._server.server_address[:2]
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{port}/metrics"
        self.is_loopback = ipaddress.ip_address(str(address)).is_loopback
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop to listen."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
