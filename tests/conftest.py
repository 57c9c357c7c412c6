"""Shared fixtures: a clean environment around every test, and tiny models."""

from __future__ import annotations

import functools
import gc
from collections.abc import Generator
from pathlib import Path

import pytest
import typer.main
from hypothesis import settings

# An example that took long on a busy machine shows nothing. Every run draws the same ones, so that
# what turns red is the change at hand; `pytest --hypothesis-profile searching` draws new ones.
settings.register_profile("searching", settings(), deadline=None, derandomize=False)
settings.register_profile("repeatable", settings.get_profile("searching"), derandomize=True)
settings.load_profile("repeatable")

# Typer makes all of our commands out of their annotations whenever one is run: 0.1 s, in which
# nothing happens that a test could see. Before test files are read, for some take it by name.
typer.main.get_command = functools.cache(typer.main.get_command)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is read here stays: looking for garbage in it takes each process seconds, over and over.

    Looked at from here on is what tests make.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_unconfigure() -> None:
    """Libraries that count what is left at the end find nothing."""
    gc.unfreeze()


# Caches that the live tier may share with the user; everything else of ours is kept out.
_KEPT = {"OLLAMA_BRIDGE_DAEMON_DIR", "OLLAMA_BRIDGE_ASSETS_DIR", "OLLAMA_BRIDGE_REQUIRE_LIVE"}


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where the installed daemon and the fetched packages are, as environment variables."""
    import os

    from ollama_bridge.assets import home_dir

    home = home_dir()
    return {
        "OLLAMA_BRIDGE_DAEMON_DIR": os.environ.get(
            "OLLAMA_BRIDGE_DAEMON_DIR", str(home / "daemon")
        ),
        "OLLAMA_BRIDGE_ASSETS_DIR": os.environ.get(
            "OLLAMA_BRIDGE_ASSETS_DIR", str(home / "assets")
        ),
    }


@pytest.fixture(autouse=True)
def clean_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caches: dict[str, str]
) -> None:
    """No test sees the user's daemon, runs or hub cache, nor writes beside them."""
    import os

    for name in list(os.environ):
        if name.startswith(("OLLAMA_", "HF_")) and name not in _KEPT:
            monkeypatch.delenv(name)
    for name, value in caches.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OLLAMA_BRIDGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    # A port where nothing listens: a forgotten host must not reach the user's own daemon.
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama with a ChatML tokenizer, as a Hugging Face folder."""
    from fakes.models import build_tiny_checkpoint

    return build_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are hashed when an artefact is committed."""
    from ollama_bridge import digests
    from ollama_bridge.storage import drafts

    names: list[str] = []

    def digest_file(path: Path) -> str:
        names.append(path.name)
        return digests.digest_file(path)

    monkeypatch.setattr(drafts, "digest_file", digest_file)
    return names
