"""What bash is offered at Tab, asked the way bash asks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.daemon import FakeDaemon, Fault

COMMAND = Path(sys.executable).parent / "ollama-bridge"


def offered(words: str, *, cwd: Path, host: str | None = None) -> list[str]:
    """The completions of a line whose last word is being typed."""
    done = subprocess.run(
        [COMMAND],
        cwd=cwd,
        env={
            **os.environ,
            "_OLLAMA_BRIDGE_COMPLETE": "complete_bash",
            "COMP_WORDS": f"ollama-bridge {words}",
            "COMP_CWORD": str(len(words.split(" "))),
            **({"OLLAMA_HOST": host} if host else {}),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("buil", ["build"]),
        ("build sent", ["sentiment", "sentiment-quick"]),
        ("build mi", ["mine.yaml"]),
        ("recipes show rep", ["reply"]),
        ("modelfiles copy chat", ["chatml"]),
        ("runs show my", ["my-run"]),
        ("labels rm 01", ["0123456789abcdef"]),
        ("convert --ty", ["--type"]),
    ],
)
def test_names_are_offered(
    words: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands, options, recipes, the user's own recipe files, templates and runs."""
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "home" / "runs" / "my-run").mkdir(parents=True)
    store = tmp_path / "home" / "labels" / "0123456789abcdef"
    store.mkdir(parents=True)
    (store / "about.json").touch()
    monkeypatch.setenv("OLLAMA_BRIDGE_HOME", str(tmp_path / "home"))
    assert offered(words, cwd=tmp_path) == expected


def test_tags_come_from_the_daemon(tmp_path: Path) -> None:
    """The daemon is asked; without one, or with one that is silent, nothing is offered, soon."""
    with FakeDaemon(models={"tiny:latest": "d" * 64, "big:7b": "e" * 64}) as daemon:
        assert offered("run ti", cwd=tmp_path, host=daemon.host) == ["tiny:latest"]
    with FakeDaemon(fault=Fault.SILENT) as daemon:
        assert offered("run ti", cwd=tmp_path, host=daemon.host) == []
    assert offered("show ti", cwd=tmp_path) == []
