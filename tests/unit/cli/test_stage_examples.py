"""What the help of the stages shows, line by line, on a tiny model."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from fakes.command_line import EXAMPLES, run_line

from ollama_bridge import config

# In the order in which a person types them: what each makes, the next ones read.
VERBS = (
    *("prepare", "finetune", "label", "distill", "evaluate", "importance", "convert", "render"),
    "template",
)
SMALL = ["student.layers=1", "distill.epochs=1", "evaluate.bootstrap_samples=200"]


def test_examples_of_the_stages_do_what_they_show(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a file of texts to a Modelfile, and back to what a checkpoint renders."""
    monkeypatch.chdir(tmp_path)
    load_recipe = config.load_recipe

    def load_small(name: str, *, overrides: Sequence[str] = ()) -> config.Recipe:
        return load_recipe(name, overrides=[*SMALL, *overrides])

    monkeypatch.setattr(config, "load_recipe", load_small)
    shutil.copytree(tiny_checkpoint, "model")
    shutil.copytree(tiny_checkpoint, "my-finetune")
    words = ("works", "fails", "shines", "breaks", "charms", "bores")
    rows = [
        f"It {words[day % 6]} and {words[day // 6]} on day {day}.,{mood}"
        for day, mood in enumerate(("positive", "negative") * 18)
    ]
    Path("mine.csv").write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    lines = [line for line in EXAMPLES if line.split()[1] in VERBS]
    for line in sorted(lines, key=lambda line: VERBS.index(line.split()[1])):
        done = run_line(monkeypatch, line)
        assert done.code == 0, f"{line}\n{done.stderr}"
    assert Path("Modelfile").read_text(encoding="utf-8").startswith("FROM ")
