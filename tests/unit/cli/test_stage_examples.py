"""What the help of the stages shows, line by line, on a tiny model."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from fakes.command_line import EXAMPLES, run_line

from ollama_bridge.examples import read_examples
from ollama_bridge.recipe import config, loading
from ollama_bridge.storage.artifacts import Checkpoint, Corpus

# In the order in which a person types them: what each makes, the next ones read.
VERBS = (
    *("prepare", "finetune", "label", "distill", "evaluate", "importance", "convert", "render"),
    "template",
)
SMALL = [
    "student.layers=1",
    "teacher.tune.min_steps=null",
    "distill.epochs=1",
    "distill.min_steps=null",
    "evaluate.bootstrap_samples=200",
]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes as the lines name them, with less work."""
    load_recipe = loading.load_recipe

    def load_small(name: str, *, overrides: Sequence[str] = ()) -> config.Recipe:
        return load_recipe(name, overrides=[*SMALL, *overrides])

    monkeypatch.setattr(loading, "load_recipe", load_small)


def test_examples_of_the_stages_do_what_they_show(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a file of texts to a Modelfile, and back to what a checkpoint renders."""
    monkeypatch.chdir(tmp_path)
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


def test_conversations_are_tuned_on_as_the_document_shows(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first two lines, with a tiny base; all that can be learnt is, nothing is put in front."""
    text = (Path(__file__).parents[3] / "training" / "README.md").read_text(encoding="utf-8")
    section = text.partition("### A model tuned on your conversations")[2]
    lines = re.findall(r"```bash\n(.*?)```", section, flags=re.DOTALL)[0].splitlines()
    monkeypatch.chdir(tmp_path)
    records = [
        [
            {"role": "user", "content": f"It fails {n}."},
            {"role": "assistant", "content": f"Hm {n}."},
        ]
        for n in range(40)
    ]
    records[7].reverse()
    records[9:12] = [one[:1] for one in records[9:12]]
    said = "\n".join(json.dumps({"messages": record}) for record in records)
    Path("chats.jsonl").write_text(said, encoding="utf-8")
    for line in lines[:2]:
        done = run_line(monkeypatch, line.replace("ollama:smollm2:135m", str(tiny_checkpoint)))
        assert done.code == 0, f"{line}\n{done.stderr}"
    corpus, tuned = Corpus.open(Path("corpus")), Checkpoint.open(Path("tuned"))
    assert sum(corpus.facts[split] for split in ("train", "validation", "test")) == 39
    for split in ("train", "validation"):
        examples = list(read_examples(corpus.split_path(split)))
        assert {example.messages[0].role for example in examples} == {"user"}
        answered = sum(len(example.messages) == 2 for example in examples)
        assert tuned.facts[f"{split}_examples"] == answered
