"""The README's Python does what it says, on little data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fakes.models import build_tiny_checkpoint
from fakes.private_daemon import PrivateDaemon

import ollama_bridge
from ollama_bridge.recipe import loading

pytestmark = pytest.mark.live

README = (Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")
SMALL = [
    "data.max_examples=40",
    "data.test_examples=24",
    "data.validation_examples=16",
    "teacher.tune.max_examples=24",
    "student.layers=2",
    "distill.epochs=1",
    "distill.min_steps=null",
    "evaluate.bootstrap_samples=200",
]


def test_stage_by_stage_snippet_runs(
    daemon: PrivateDaemon,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The snippet with one line a stage ends with a proven tag; a build has the real teacher."""
    teacher = build_tiny_checkpoint(tmp_path / "teacher", layers=4)
    settings = [*SMALL, f"teacher.model={teacher}"]
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (snippet,) = [block for block in blocks if "finetune(" in block]
    monkeypatch.setenv("OLLAMA_HOST", daemon.host)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        ollama_bridge,
        "load_recipe",
        lambda name: loading.load_recipe(name, overrides=settings),
        raising=False,
    )
    exec(compile(snippet, "README.md", "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out.startswith("my-sentiment")
    assert "my-sentiment:latest" in {model.name for model in daemon.client().list()}
