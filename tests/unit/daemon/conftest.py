"""A stand-in for the ``ollama`` binary: it serves, has a runner, and can be told to fail."""

from __future__ import annotations

import shutil
import stat
import sys
from pathlib import Path

import pytest

_PROGRAM = """#!{python}
import http.server, json, os, signal, subprocess, sys

host, _, port = os.environ["OLLAMA_HOST"].rpartition(":")
if os.environ.get("FAKE_FAILURE"):
    sys.exit("Error: " + os.environ["FAKE_FAILURE"])

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({{"version": "0.34.4"}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *args):
        pass

http.server.ThreadingHTTPServer.allow_reuse_address = 1
try:
    server = http.server.ThreadingHTTPServer((host, int(port)), Handler)
except OSError:
    sys.exit("Error: listen tcp " + os.environ["OLLAMA_HOST"] + ": bind: address already in use")
runner = subprocess.Popen([os.path.join(os.path.dirname(__file__), "llama-server"), "60"])

def stop(*args):
    runner.kill()
    os._exit(0)

signal.signal(signal.SIGTERM, stop)
print("environment", json.dumps(dict(os.environ)), flush=True)
server.serve_forever()
"""


@pytest.fixture
def fake_ollama(tmp_path: Path) -> Path:
    """An executable that behaves like ``ollama serve`` as far as starting and stopping goes."""
    program = tmp_path / "fake" / "ollama"
    program.parent.mkdir()
    program.write_text(_PROGRAM.format(python=sys.executable))
    (program.parent / "llama-server").symlink_to(shutil.which("sleep") or "/bin/sleep")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program
