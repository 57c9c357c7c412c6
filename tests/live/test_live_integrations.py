"""What docs/integrations.md shows works as it stands: other people's clients, and a web service."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes.private_daemon import PrivateDaemon

from ollama_bridge.client import Client
from ollama_bridge.digests import digest_file

pytestmark = pytest.mark.live

DOCUMENT = Path(__file__).parents[2] / "docs" / "integrations.md"
TAG = "review-reply"


@pytest.fixture(scope="module", autouse=True)
def model(daemon: PrivateDaemon, teacher_gguf: Path) -> Iterator[None]:
    digest = f"sha256:{digest_file(teacher_gguf)}"
    with daemon.client() as client:
        client.upload_blob(teacher_gguf, digest)
        parameters = {"num_predict": 16, "num_thread": 1}
        files = {"m.gguf": digest}
        client.create({"model": TAG, "files": files, "parameters": parameters})
        yield
        client.unload(TAG)  # its runner would be listed under this name for other tests
        client.delete(TAG)


def block(heading: str, daemon: PrivateDaemon) -> str:
    """The block below a heading."""
    text = DOCUMENT.read_text(encoding="utf-8").partition(f"## {heading}\n")[2]
    found = re.search(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert found is not None
    return found[1].replace("http://127.0.0.1:11434", daemon.host)


@pytest.mark.parametrize("heading", ["The OpenAI SDK", "LangChain"])
def test_other_people_s_clients(heading: str, daemon: PrivateDaemon) -> None:
    """In a process of their own: they leave connections open."""
    done = subprocess.run(
        [sys.executable, "-c", block(heading, daemon)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_a_web_service(
    daemon: PrivateDaemon, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers, is ready, and tells what does not fit and who is away."""
    monkeypatch.setenv("OLLAMA_HOST", daemon.host)
    names: dict[str, Any] = {"__name__": "integration_example"}
    code = compile(block("A web service", daemon), str(DOCUMENT), "exec", dont_inherit=True)
    exec(code, names)
    server: ThreadingHTTPServer = names["server"]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        with httpx.Client(base_url=url, timeout=120) as asker:
            assert asker.get("/").json() == {"daemon": client.version()}
            assert asker.post("/", content="It broke.").json()["text"]
            assert asker.post("/", content="long " * 20000).status_code == 413
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        names["client"].close()
