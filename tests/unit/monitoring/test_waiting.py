"""Requests without an answer, as the kernel knows them."""

from __future__ import annotations

import shutil
import socket
import time
from pathlib import Path

import pytest

from ollama_bridge.monitoring.waiting import waiting_requests

has_ss = pytest.mark.skipif(shutil.which("ss") is None, reason="no iproute2 on this system")
A_TICK_S = 0.05  # more than the kernel's


@has_ss
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_request_waits_until_the_first_byte_of_its_answer(address: str) -> None:
    """A connection that says nothing is none, nor one that was answered, until it asks again."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:
        port = server.getsockname()[1]
        with (
            socket.create_connection((address, port)) as client,
            server.accept()[0] as daemon,
            socket.create_connection((address, port)),
        ):
            assert waiting_requests(port) == 0
            for _ in range(2):
                time.sleep(A_TICK_S)
                client.sendall(b"GET /")
                daemon.recv(100)
                time.sleep(A_TICK_S)
                assert waiting_requests(port) == 1
                daemon.sendall(b"HTTP/1.1 200 OK")
                time.sleep(A_TICK_S)
                assert waiting_requests(port) == 0
        time.sleep(A_TICK_S)
        assert waiting_requests(port) == 0
    assert waiting_requests(port) is None  # nobody listens


@pytest.mark.parametrize("program", [None, "exit 1", "echo LISTEN; printf '\\377'; exit 1"])
def test_what_cannot_be_asked_is_not_known(
    program: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No such program, or one that fails."""
    if program is not None:
        (tmp_path / "ss").write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / "ss").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert waiting_requests(1) is None
