"""What the help of the stages shows, line by line, on a tiny model and in a real daemon."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from fakes.adapters import build_adapter
from fakes.command_line import EXAMPLES, run_line
from fakes.models import build_tiny_checkpoint

from ollama_bridge import config
from ollama_bridge.daemon.process import PrivateDaemon

pytestmark = pytest.mark.live

# In the order in which a person types them; what each makes, the next ones read.
VERBS = (
    *("prepare", "finetune", "label", "distill", "evaluate", "importance", "convert", "render"),
    *("register", "template", "package", "verify"),
)
SMALL = ["student.layers=1", "distill.epochs=1", "evaluate.bootstrap_samples=200"]


def test_examples_of_the_stages_do_what_they_show(
    daemon: PrivateDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of one are those of the next; the last one proves the tag of one before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OLLAMA_HOST", daemon.host)
    load_recipe = config.load_recipe

    def load_small(name: str, *, overrides: Any = ()) -> config.Recipe:
        return load_recipe(name, overrides=[*SMALL, *overrides])

    monkeypatch.setattr(config, "load_recipe", load_small)
    build_tiny_checkpoint(tmp_path / "model")
    shutil.copytree("model", "my-finetune")
    shutil.copytree("model", "unquantized-base")
    build_adapter(tmp_path / "model", tmp_path / "my-adapter")
    words = ("works", "fails", "shines", "breaks", "charms", "bores")
    rows = [f"It {one} and {other} on day {day}.,{('positive', 'negative')[day % 2]}"
            for day, (one, other) in enumerate((a, b) for a in words for b in words)]  # fmt: skip
    (tmp_path / "mine.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    lines = sorted(
        (line for line in EXAMPLES if line.split()[1] in VERBS and "--publish" not in line),
        key=lambda line: VERBS.index(line.split()[1]),
    )
    for line in lines:
        done = run_line(monkeypatch, line)
        assert done.code == 0, f"{line}\n{done.stderr}"
        if line.startswith("ollama-bridge package"):
            with daemon.client() as client:
                client.copy("my-model", "review-sentiment")
    with daemon.client() as client:
        for tag in ("my-model", "review-sentiment"):
            client.delete(tag)
