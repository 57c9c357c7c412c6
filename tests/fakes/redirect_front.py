"""What makes ``ollama pull`` work with a plain registry: files by a redirect to another host name.

Ollama's pull takes the address of a file from the ``Location`` of the answer, also of one that has
none (ollama#7244). In front of a registry, any proxy can do what is done here: pass manifests and
HEAD requests on, and answer GET of a blob with a 307 to the registry under another name.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx


@contextlib.contextmanager
def redirect_front(registry: str) -> Iterator[str]:
    """Serve a registry of 127.0.0.1 while the block runs; yields the front's address."""
    other_name = registry.replace("127.0.0.1", "localhost")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if "/blobs/" in self.path and self.command == "GET":
                self.send_response(307)
                self.send_header("Location", f"http://{other_name}{self.path}")
                self.end_headers()
                return
            answer = httpx.request(
                self.command,
                f"http://{registry}{self.path}",
                headers={"Accept": self.headers.get("Accept", "*/*")},
                trust_env=False,
            )
            self.send_response(answer.status_code)
            for name in ("Content-Type", "Content-Length"):
                self.send_header(name, answer.headers[name])
            self.end_headers()
            self.wfile.write(answer.content)

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            """Say nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
