"""A registry on loopback that knows one manifest: the way to hand it to a daemon as it is.

No call of Ollama's API takes a manifest, but a pull does. The daemon has every file already when
it pulls from here, so it asks for the manifest alone, and stores it byte for byte. Its own pull
from Docker's registry fails, because it wants a ``Location`` on every file (ollama#7244).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ollama_bridge.registry.manifest import MANIFEST_TYPE, digest_bytes

_SILENCE_LIMIT_S = 30.0


@dataclass
class Front:
    """A registry that is served: what to pull from it, and whether somebody has asked."""

    name: str
    asked: bool = False


@contextlib.contextmanager
def manifest_front(repository: str, tag: str, manifest: bytes | None) -> Iterator[Front]:
    """Serve one manifest while the block runs; None: none at all."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = _SILENCE_LIMIT_S

        def do_GET(self) -> None:
            front.asked = True
            known = manifest if self.path == f"/v2/{repository}/manifests/{tag}" else None
            body = known or b"{}"
            self.send_response(404 if known is None else 200)
            self.send_header("Content-Type", MANIFEST_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Docker-Content-Digest", digest_bytes(body))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)
            self.close_connection = True

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Say nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    front = Front(f"127.0.0.1:{server.server_address[1]}/{repository}:{tag}")
    # A daemon thread: an interruption before the block is entered must not keep the process alive.
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
    )
    thread.start()
    try:
        yield front
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
