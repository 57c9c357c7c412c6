"""Where everything is kept, whatever the environment says."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest
from fakes.command_line import run_in_process

from ollama_bridge.assets import home_dir
from ollama_bridge.errors import ConfigError


def nobody(uid: int) -> None:
    """A user without an entry, as a container gives one any number."""
    raise KeyError(uid)


@pytest.mark.parametrize("explicit", ["", "~unheard-of/x"])
def test_a_user_without_a_home_is_told_what_to_set(
    explicit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By every command that needs one."""
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setenv("OLLAMA_BRIDGE_HOME", explicit)
    with pytest.raises(ConfigError) as caught:
        home_dir()
    assert str(caught.value.hint).startswith("export OLLAMA_BRIDGE_HOME=")
    done = run_in_process(monkeypatch, ["runs", "ls"])
    assert (done.code, done.stderr.count("\n")) == (2, 2)


def test_a_folder_for_daemons_of_a_user_who_is_unheard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told with the variable that says it."""
    monkeypatch.setenv("OLLAMA_BRIDGE_DAEMON_DIR", "~unheard-of/x")
    done = run_in_process(monkeypatch, ["daemon", "install"])
    assert (done.code, done.stderr.count("\n")) == (2, 2)
    assert "export OLLAMA_BRIDGE_DAEMON_DIR=" in done.stderr


@pytest.mark.parametrize(
    ("data_home", "home"),
    [("/data", "/data"), ("data", "/user/.local/share"), ("", "/user/.local/share")],
)
def test_home_does_not_depend_on_the_current_folder(
    data_home: str, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative XDG_DATA_HOME is ignored, as its specification asks."""
    monkeypatch.delenv("OLLAMA_BRIDGE_HOME")
    monkeypatch.setenv("HOME", "/user")
    monkeypatch.setenv("XDG_DATA_HOME", data_home)
    assert home_dir() == Path(home) / "ollama-bridge"
