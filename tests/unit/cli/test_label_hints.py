"""What is printed about labels works as it is typed into a shell."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import pytest
import yaml
from fakes.command_line import Done, run_line

from ollama_bridge.assets import find_recipe
from ollama_bridge.data.snippets import collect_vader
from ollama_bridge.errors import ConfigError
from ollama_bridge.examples import read_examples
from ollama_bridge.recipe.config import DataSection, TaskSection
from ollama_bridge.storage.artifacts import Corpus

# With blanks, dots, quotes, and what YAML takes for something else.
LABELS = ("sehr gut", "z.B. so: #1", "it's fine", "no", "positiv")
TASK_LABELS = ("positive", "negative")  # of sentiment-quick
COMMAND = "ollama-bridge prepare sentiment-quick --data mine.csv --out corpus"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Path("mine.csv").open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["text", "label"])
        for number in range(40):
            rows.writerow([f"Nummer {number * 7919} im Laden", LABELS[number % len(LABELS)]])


def refused(done: Done) -> str:
    assert done.code != 0
    return done.stderr


def test_the_files_labels_become_the_tasks_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels and a system prompt that names them, as printed; then nothing is left to say."""
    said = refused(run_line(monkeypatch, COMMAND))
    options = said.rpartition("make the labels of the file those of the task: ")[2]
    done = run_line(monkeypatch, f"{COMMAND} {options}")
    assert done.code == 0, done.stderr
    assert "task.system" not in done.stderr
    train = list(read_examples(Corpus.open("corpus").split_path("train")))
    assert {one.label for one in train} == set(LABELS)
    assert {one.messages[0].content for one in train} == {
        "Classify the text as sehr gut, z.B. so: #1, it's fine, no or positiv. "
        "Answer with the label alone."
    }


@pytest.mark.parametrize("count", [30, 77])
def test_many_labels_become_the_tasks_own(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """As intents are; nobody maps so many to two. What is one in each row is another column."""
    names = [f"intent {number:02}" for number in range(count)]
    rows = [
        f"Ask for {n * 7919} of the {n % 13}th kind,{names[n % count]}" for n in range(count * 8)
    ]
    Path("mine.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    said = refused(run_line(monkeypatch, COMMAND))
    assert "right column" not in said
    assert "label_map" not in said
    options = said.rpartition("make the labels of the file those of the task: ")[2]
    done = run_line(monkeypatch, f"{COMMAND} {options}")
    assert done.code == 0, done.stderr
    train = list(read_examples(Corpus.open("corpus").split_path("train")))
    assert {one.label for one in train} == set(names)
    assert all(name in train[0].messages[0].content for name in names)
    other = [row.replace(",", f",{place} ") for place, row in enumerate(rows)]
    Path("mine.csv").write_text("\n".join(["text,label", *other]), encoding="utf-8")
    said = refused(run_line(monkeypatch, COMMAND))
    assert f"and {len(rows) - 20} more labels: is it the right column?" in said
    option = said[said.index("--set") :].replace("NAME", "intent")
    assert "no column 'intent'" in refused(run_line(monkeypatch, f"{COMMAND} {option}"))


@pytest.mark.parametrize(
    "command",
    [
        "ollama-bridge prepare my.yaml --out corpus",
        f"{COMMAND} --text-col bodie --text-col 'the subject' --label-col lable",
        f"{COMMAND} --label-col lable --set 'data.text_col=[bodie, the subject]'",
    ],
)
def test_columns_are_named_behind_the_same_command(
    monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Whether the file is a recipe's own or --data, and however they were misspelt."""
    rows = [f"Nummer {n * 7919} im Laden,ja,{TASK_LABELS[n % 2]}" for n in range(40)]
    Path("mine.csv").write_text("\n".join(["body,The subject,Label", *rows]), encoding="utf-8")
    shipped = yaml.safe_load(find_recipe("sentiment-quick").read_text(encoding="utf-8"))
    own = {"source": "table", "path": "mine.csv", "text_col": ["bodie", "the subject"]}
    shipped["data"] = {**own, "label_col": "lable"}
    Path("my.yaml").write_text(yaml.safe_dump(shipped), encoding="utf-8")
    said = refused(run_line(monkeypatch, command))
    options = said.rpartition("name the columns: ")[2]
    done = run_line(monkeypatch, f"{command} {options}")
    assert done.code == 0, done.stderr
    train = list(read_examples(Corpus.open("corpus").split_path("train")))
    assert {one.label for one in train} == set(TASK_LABELS)
    assert all(one.messages[-2].content.endswith("im Laden\n\nja") for one in train)


def test_a_printed_map_is_the_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the place of what was mapped before, so it has that too."""
    first = json.dumps({"sehr gut": "positive", "no": "negative"})
    said = refused(run_line(monkeypatch, f"{COMMAND} --set 'data.label_map={first}'"))
    option = said.partition("map them: ")[2].partition("; or make")[0]
    option = option.replace('"LABEL"', '"negative"')
    done = run_line(monkeypatch, f"{COMMAND} {option}")
    assert done.code == 0, done.stderr
    train = read_examples(Corpus.open("corpus").split_path("train"))
    assert {one.label for one in train} == {"positive", "negative"}


def test_a_map_to_labels_that_are_none_is_printed_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them, with what was probably meant."""
    wrong = dict.fromkeys(LABELS, "positve") | {"no": "bad", "sehr gut": "positive"}
    option = shlex.quote(f"data.label_map={json.dumps(wrong)}")
    said = refused(run_line(monkeypatch, f"{COMMAND} --set {option}"))
    assert "'no' to 'bad'" in said
    assert "'z.B. so: #1' to 'positve'" in said
    option = said[said.index("--set") :].replace('"LABEL"', '"negative"')
    done = run_line(monkeypatch, f"{COMMAND} {option}")
    assert done.code == 0, done.stderr


def test_a_prompt_of_other_labels_is_told_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is trained and served under a prompt of two English labels is said, reused or not."""
    labels = shlex.quote(f"task.labels={json.dumps(LABELS)}")
    for _ in range(2):
        done = run_line(monkeypatch, f"{COMMAND} --set {labels}")
        assert done.code == 0, done.stderr
        assert "task.system names none of the labels sehr gut, z.B. so: #1" in done.stderr
    option = done.stderr[done.stderr.index("--set 'task.system") :].splitlines()[0]
    done = run_line(monkeypatch, f"{COMMAND} --set {labels} {option}")
    assert "task.system" not in done.stderr


def test_what_a_map_had_right_is_printed_with_it() -> None:
    """One map takes the place of the one before, also of the texts that are fetched."""
    task = TaskSection(kind="classify", labels=("good", "bad"), system="")
    data = DataSection(source="vader", label_map={"positive": "good"})
    with pytest.raises(ConfigError) as caught:
        collect_vader({}, data, task)
    assert caught.value.hint == (
        """--set 'data.label_map={"positive": "good", "negative": "LABEL"}'"""
    )
