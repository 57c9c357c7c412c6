"""Is there a daemon, and is it one?"""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.private_daemon import free_port

from ollama_bridge.client import Timeouts
from ollama_bridge.daemon import find
from ollama_bridge.errors import (
    DaemonInstallError,
    DaemonUnreachableError,
    RequestRejectedError,
)


@contextlib.contextmanager
def page(status: int) -> Iterator[str]:
    """Something on a port that answers with HTML."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def _to_loopback(look_up: Callable[..., Any]) -> Callable[..., Any]:
    """A look-up of names that finds them all on this machine."""
    return lambda host, *args, **kwargs: look_up("127.0.0.1", *args, **kwargs)


@pytest.fixture
def website() -> Iterator[str]:
    """Something on a port that is not Ollama."""
    with page(200) as address:
        yield address


def test_nothing_listening_is_no_daemon() -> None:
    """A refused connection means that there is none, and is no error."""
    assert find.find_daemon(f"127.0.0.1:{free_port()}") is None


def test_another_program_on_the_port_is_named(website: str) -> None:
    """A web page at the daemon's address is an error that says so and offers another port."""
    with pytest.raises(DaemonInstallError, match="taken by something that is not Ollama") as caught:
        find.find_daemon(website)
    assert caught.value.hint is not None
    assert "OLLAMA_HOST=" in caught.value.hint


@pytest.mark.parametrize(
    ("status", "hint"),
    [(401, "OLLAMA_API_KEY"), (403, "Host: localhost"), (429, "try again"), (502, "try again")],
)
def test_a_proxy_that_refuses_is_no_other_program(status: int, hint: str) -> None:
    """To stop it, or to take another port, would help nobody."""
    with page(status) as address, pytest.raises(RequestRejectedError, match=str(status)) as caught:
        find.find_daemon(address)
    assert hint in (caught.value.hint or "")


def test_what_fails_to_speak_tls_says_why(website: str) -> None:
    """A certificate of a private authority, or here a server without any."""
    with pytest.raises(DaemonUnreachableError, match="SSL") as caught:
        find.find_daemon(f"https://{website}")
    assert "SSL_CERT_FILE" in (caught.value.hint or "")


def test_a_proxy_that_is_not_there_says_nothing_of_the_daemon(
    website: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither that there is none, nor, as this machine may reach it, that it is something else."""
    monkeypatch.setattr(socket, "getaddrinfo", _to_loopback(socket.getaddrinfo))
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(DaemonUnreachableError, match="through the proxy that HTTP_PROXY names"):
        find.find_daemon(website.replace("127.0.0.1", "box.example"))


def test_no_port_of_this_machine_is_offered_for_another(
    website: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name in place of 127.0.0.1: it may be any machine's."""
    monkeypatch.setattr(socket, "getaddrinfo", _to_loopback(socket.getaddrinfo))
    with pytest.raises(DaemonInstallError, match=r"box\.example") as caught:
        find.find_daemon(website.replace("127.0.0.1", "box.example"))
    assert caught.value.hint == "check OLLAMA_HOST: is the daemon at another port?"


def test_a_port_that_takes_connections_but_is_silent_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A listener that never answers is an error after a finite wait."""
    monkeypatch.setattr(
        find, "PROBE_TIMEOUTS", Timeouts(connect_s=0.2, load_s=0.0, first_token_s=0.2)
    )
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(DaemonInstallError, match="does not answer"),
    ):
        find.find_daemon(f"127.0.0.1:{silent.getsockname()[1]}")


def test_a_port_that_speaks_another_protocol_is_named() -> None:
    """What hangs up on HTTP is something else, not an absent daemon."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            for _ in range(3):
                with server.accept()[0] as connection:
                    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(DaemonInstallError, match="not Ollama"):
            find.find_daemon(f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()


def test_the_binary_on_path_comes_first(fake_ollama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own Ollama is used before one that we installed."""
    monkeypatch.setenv("PATH", str(fake_ollama.parent))
    assert find.find_binary() == fake_ollama


def test_no_binary_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one on PATH and without an installed one there is none."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("OLLAMA_BRIDGE_DAEMON_DIR", str(tmp_path / "none"))
    assert find.find_binary() is None
