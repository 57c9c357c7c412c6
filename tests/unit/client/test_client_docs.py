"""docs/client.md says what the client does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fakes.daemon import FakeDaemon

from ollama_bridge import errors
from ollama_bridge.client import Retries, Timeouts

TESTS = Path(__file__).parents[2]
DOCUMENT = (TESTS.parent / "docs" / "client.md").read_text(encoding="utf-8")


def test_its_example_runs(
    fake_daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it stands there, against the daemon of ``OLLAMA_HOST``."""
    monkeypatch.setenv("OLLAMA_HOST", fake_daemon.host)
    fake_daemon.models["all-minilm:latest"] = "e" * 64
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block, {})
    assert capsys.readouterr().out.startswith("Hello! stop False ")


def test_every_error_of_a_daemon_is_in_its_table() -> None:
    """And none that there is not."""
    named = set(re.findall(r"^\| `(\w+Error)` \|", DOCUMENT, flags=re.MULTILINE))
    found = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.DaemonError)
    }
    assert named == found - {"DaemonError"}


def test_what_can_go_wrong_names_what_there_is() -> None:
    """Errors of ours, and tests that are there."""
    part = DOCUMENT.partition("## What can go wrong")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| ")]
    assert len(rows) > 20
    tests = "".join(path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py"))
    for _, gives, shown_by in rows[1:]:
        for name in re.findall(r"`(\w+Error)`", gives):
            assert issubclass(getattr(errors, name), errors.OllamaBridgeError)
        assert f"def {shown_by.strip('`')}(" in tests


def test_its_numbers_are_the_defaults() -> None:
    """Limits and retries as the code has them."""
    limits = Timeouts()
    assert f"| `connect_s` | {limits.connect_s:g} s |" in DOCUMENT
    assert f"| {limits.load_s:g} s + {limits.first_token_s:g} s |" in DOCUMENT
    assert f"| `between_tokens_s` | {limits.between_tokens_s:g} s |" in DOCUMENT
    assert f"| `total_s` | {limits.total_s:g} s |" in DOCUMENT
    retries = Retries()
    assert f"`Retries(attempts={retries.attempts}, pause_s={retries.pause_s:g})`" in DOCUMENT
    assert f"at most {retries.longest_pause_s:g} s" in DOCUMENT
