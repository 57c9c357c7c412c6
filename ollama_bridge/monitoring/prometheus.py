"""A snapshot in Prometheus' text format, and a page on loopback that serves it.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/ (text, version 0.0.4).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ollama_bridge.closing import Closing
from ollama_bridge.errors import ConfigError
from ollama_bridge.monitoring.snapshot import Snapshot

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_ALWAYS_KNOWN = ("memory_bytes", "cpu_share", "stuck_s")  # also of a runner that tells nothing

Sample = tuple[dict[str, str], float]


def exposition(snapshot: Snapshot) -> str:
    """Every number of a snapshot as a gauge, with its unit in its name."""
    lines = []
    for name, text, samples in _gauges(snapshot):
        if not samples:
            continue
        lines += [f"# HELP ollama_{name} {text}", f"# TYPE ollama_{name} gauge"]
        for labels, value in samples:
            shown = ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items())
            place = f"{{{shown}}}" if shown else ""
            lines.append(f"ollama_{name}{place} {float(value)!r}")
    return "\n".join(lines) + "\n"


def _gauges(seen: Snapshot) -> Iterator[tuple[str, str, list[Sample]]]:
    machine = seen.machine
    yield "up", "Whether the daemon answers.", [({}, float(seen.version is not None))]
    if seen.answer_s is not None:
        yield "answer_seconds", "How long it took to answer.", [({}, seen.answer_s)]
    by_model = [({"model": one.name}, one) for one in seen.loaded]
    yield (
        "model_bytes",
        "Memory of a loaded model.",
        [(labels, float(one.size_bytes)) for labels, one in by_model],
    )
    yield (
        "model_gpu_bytes",
        "Memory of a loaded model on GPUs.",
        [(labels, float(one.gpu_bytes)) for labels, one in by_model],
    )
    yield (
        "model_context_tokens",
        "Context length of a loaded model.",
        [(labels, float(one.context_tokens)) for labels, one in by_model],
    )
    runners = [({"model": one.model or "", "pid": str(one.pid)}, one) for one in seen.runners]
    for name, text, attribute in (
        ("runner_memory_bytes", "Resident memory of a runner.", "memory_bytes"),
        ("runner_cpu_cores", "Cores that a runner keeps busy.", "cpu_share"),
        ("runner_busy_requests", "Requests that a runner works on.", "busy"),
        ("runner_tokens_per_second", "Tokens that a runner generates.", "tokens_per_s"),
        ("runner_stuck_seconds", "Time that a runner was busy for nothing.", "stuck_s"),
    ):
        known = [one for one in runners if one[1].slots is not None or attribute in _ALWAYS_KNOWN]
        yield name, text, [(labels, float(getattr(one, attribute))) for labels, one in known]
    yield "cpu_share", "Share of all cores that is busy.", [({}, machine.cpu_share)]
    yield "memory_used_bytes", "Memory in use.", [({}, float(machine.memory_used_bytes))]
    yield "memory_bytes", "Memory in all.", [({}, float(machine.memory_bytes))]
    yield "swap_used_bytes", "Swap in use.", [({}, float(machine.swap_used_bytes))]
    if machine.hottest_c is not None:
        yield "temperature_celsius", "Of the hottest sensor.", [({}, machine.hottest_c[0])]
    gpus = [({"gpu": f"{number} {gpu.name}"}, gpu) for number, gpu in enumerate(machine.gpus)]
    yield "gpu_share", "Share of a GPU that is busy.", [(labels, gpu.share) for labels, gpu in gpus]
    yield (
        "gpu_memory_used_bytes",
        "Memory of a GPU in use.",
        [(labels, float(gpu.memory_used_bytes)) for labels, gpu in gpus],
    )
    yield "alerts", "What is wrong; ollama-bridge monitor says it.", [({}, len(seen.alerts()))]


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Exporter(Closing):
    """Serves the newest text at ``/metrics``, to this machine alone.

    Args:
        port: Of loopback; 0: any that is free.
        text: Asked at each request.

    Raises:
        ConfigError: the port is taken.
    """

    def __init__(self, port: int, text: Callable[[], str]) -> None:
        class Page(BaseHTTPRequestHandler):
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
            def handle_error(self, *_: object) -> None:
                """Whoever hung up needs no answer."""

        try:
            self._server = Server(("127.0.0.1", port), Page)
        except (OSError, OverflowError) as exc:
            raise ConfigError(
                f"port {port} cannot be listened on: {exc}",
                hint="choose another: --prometheus 9435",
            ) from exc
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop to listen."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
