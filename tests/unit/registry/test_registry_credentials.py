"""Where secrets come from, and that they stay there."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from ollama_bridge.errors import ConfigError
from ollama_bridge.registry.credentials import Credentials, hide, read_credentials

_PREFIX = "OLLAMA_BRIDGE_REGISTRY_"
HOST = "registry.example.com:5000"


def test_nothing_is_anonymous() -> None:
    """Without variables there is nothing to show."""
    assert read_credentials(HOST) == Credentials()
    assert read_credentials(HOST).basic == ""


def test_user_and_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Basic wants them; not in the repr."""
    monkeypatch.setenv(f"{_PREFIX}USER", "ada")
    monkeypatch.setenv(f"{_PREFIX}PASSWORD", "pässword:1")
    found = read_credentials(HOST)
    assert base64.b64decode(found.basic.removeprefix("Basic ")).decode() == "ada:pässword:1"
    assert "pässword" not in repr(found)


def test_a_file_holds_the_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only one that nobody else may read."""
    file = tmp_path / "token"
    file.write_text("t0ken\n")
    file.chmod(0o644)
    monkeypatch.setenv(f"{_PREFIX}TOKEN_FILE", str(file))
    with pytest.raises(ConfigError, match="other users may read") as caught:
        read_credentials(HOST)
    assert caught.value.hint == f"chmod 600 {file}"
    file.chmod(0o600)
    assert read_credentials(HOST).token == "t0ken"
    monkeypatch.setenv(f"{_PREFIX}TOKEN", "other")
    with pytest.raises(ConfigError, match="both set"):
        read_credentials(HOST)


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"USER": "ada"}, "PASSWORD is not"),
        ({"PASSWORD": "secret"}, "USER is not"),
        ({"USER": "ada", "PASSWORD": "secret", "TOKEN": "t"}, "both set"),
        ({"USER": "a:b", "PASSWORD": "secret"}, "colon"),
        ({"TOKEN": "a\nX-Evil: secret"}, "no header can carry"),
        ({"TOKEN": "ä-secret"}, "no header can carry"),
        ({"TOKEN_FILE": "/nowhere/secret"}, "cannot read"),
    ],
)
def test_what_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], reason: str
) -> None:
    """The message names the variable and never the secret."""
    for name, value in variables.items():
        monkeypatch.setenv(f"{_PREFIX}{name}", value)
    with pytest.raises(ConfigError, match=reason) as caught:
        read_credentials(HOST)
    assert "secret" not in str(caught.value).replace("/nowhere/secret", "")


@pytest.mark.parametrize("names", [("USER", "PASSWORD"), ("TOKEN",), ()])
def test_what_is_refused_is_to_be_checked(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    """To export what is exported already would help nobody."""
    for name in names:
        monkeypatch.setenv(f"{_PREFIX}{name}", "hunter2")
    hint = read_credentials(HOST).hint
    assert hint.startswith(f"check {_PREFIX}{names[0]}" if names else f"export {_PREFIX}USER=")
    assert "hunter2" not in hint


def test_one_registry_s_secret_is_for_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who pulls from elsewhere shows nothing there; a refusal says why."""
    monkeypatch.setenv("OLLAMA_BRIDGE_REGISTRY", "Registry.example.com:5000")
    monkeypatch.setenv(f"{_PREFIX}TOKEN", "t0ken")
    assert read_credentials(HOST).token == "t0ken"
    for other in ("models.example.net", "registry.example.com", "registry.example.com:5001"):
        found = read_credentials(other)
        assert not found.secrets
        assert HOST in found.hint
        assert found.hint.endswith(f"export OLLAMA_BRIDGE_REGISTRY={other}")
    monkeypatch.setenv("OLLAMA_BRIDGE_REGISTRY", f"https://{HOST}/")
    with pytest.raises(ConfigError, match="not a registry's host"):
        read_credentials(HOST)


def test_hide_replaces_every_secret() -> None:
    """Also where it stands twice."""
    assert hide("a hunter2 b hunter2", ["hunter2"]) == "a *** b ***"
