"""Where the client connects, and what it never tells anyone."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest
from fakes.daemon import FakeDaemon

from ollama_bridge.client import Client, read_address
from ollama_bridge.errors import ConfigError, OllamaBridgeError

KEY = "sk-very-secret"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("  ", "http://127.0.0.1:11434"),
        ("box", "http://box:11434"),
        ("box:1", "http://box:1"),
        (":1234", "http://127.0.0.1:1234"),
        ("127.0.0.1:1234/", "http://127.0.0.1:1234"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:1234", "http://127.0.0.1:1234"),
        ("[::]:1234", "http://[::1]:1234"),
        ("::1", "http://[::1]:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("http://box", "http://box:80"),
        ("https://box", "https://box:443"),
        ("HTTP://box:1", "http://box:1"),
        ("https://box:1/ollama/", "https://box:1/ollama"),
        ('"box:1"', "http://box:1"),
    ],
)
def test_an_address_is_read_as_ollama_reads_it(
    monkeypatch: pytest.MonkeyPatch, host: str, url: str
) -> None:
    """As an argument or as ``OLLAMA_HOST``; "all interfaces" is asked on this machine."""
    monkeypatch.setenv("OLLAMA_HOST", host)
    assert read_address().url == url
    if host.strip():
        monkeypatch.setenv("OLLAMA_HOST", "elsewhere")
        assert read_address(host).url == url


@pytest.mark.parametrize(
    "host",
    [
        "x..y",
        "a" * 64 + ".example",
        "ftp://box",
        "box:x",
        "box:70000",
        "http://[",
        "a b",
        "box\x00",
        "box?x",
        "box#x",
        "[::1",
    ],
)
def test_an_unreadable_address_is_refused(host: str) -> None:
    """With a hint how to write it."""
    with pytest.raises(ConfigError, match="daemon address") as caught:
        Client(host)
    assert "host:port" in str(caught.value.hint)


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    """Credentials belong in a variable, not in an address that gets shown."""
    with pytest.raises(ConfigError) as caught:
        Client("http://user:hunter2@box")
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.9.9.9", "https://box"])
def test_a_key_is_kept_for_this_machine_and_for_https(host: str) -> None:
    """It travels as a bearer token."""
    address = read_address(host, api_key=KEY)
    assert address.headers == {"Authorization": f"Bearer {KEY}"}
    assert KEY not in repr(address)


@pytest.mark.parametrize("host", ["http://box", "box:1", "192.0.2.1", "localhost.example"])
def test_a_key_never_travels_unencrypted(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """Another machine over plain http is refused; the key is not in the message."""
    monkeypatch.setenv("OLLAMA_API_KEY", KEY)
    with pytest.raises(ConfigError, match="unencrypted") as caught:
        Client(host)
    assert KEY not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("key", ["a b", "a\nb", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused(key: str) -> None:
    """With a message that does not repeat it."""
    with pytest.raises(ConfigError) as caught:
        Client("127.0.0.1", api_key=key)
    assert key not in str(caught.value)


def test_the_key_is_sent(fake_daemon: FakeDaemon, ask: Any, monkeypatch: Any) -> None:
    """Every request carries it; without one there is no such header."""
    ask(fake_daemon.host, "version")
    monkeypatch.setenv("OLLAMA_API_KEY", f" {KEY}\n")
    ask(fake_daemon.host, "version")
    assert [asked.headers.get("authorization") for asked in fake_daemon.asked] == [
        None,
        f"Bearer {KEY}",
    ]


def test_no_proxy_stands_before_this_machine(
    fake_daemon: FakeDaemon, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proxy variables do not turn a question to loopback away."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert ask(fake_daemon.host, "version") == "0.34.4"


def test_prompts_answers_and_keys_are_logged_nowhere(
    fake_daemon: FakeDaemon, ask: Any, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    """Not even at the lowest level of any library underneath."""
    monkeypatch.setenv("OLLAMA_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    fake_daemon.pieces = ["my diagnosis"]
    reply = ask(fake_daemon.host, "chat", "m", "my symptoms")
    with pytest.raises(OllamaBridgeError):
        ask(fake_daemon.host, "chat", "absent", "my symptoms")
    assert reply.text == "my diagnosis"
    for secret in ("symptoms", "diagnosis", KEY):
        assert secret not in caplog.text


def test_the_client_is_light() -> None:
    """Importing it loads neither torch nor pydantic nor the command line."""
    code = (
        "import sys, ollama_bridge.client; "
        "print([m for m in ('torch', 'pydantic', 'typer', 'numpy', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_exported_names_are_sorted_and_there() -> None:
    """``__all__`` says what the package offers."""
    import ollama_bridge.client as package

    assert sorted(package.__all__) == list(package.__all__)
    assert all(hasattr(package, name) for name in package.__all__)
