"""The main job on real input: SmolLM2 in a real daemon -> a smaller tag that is served."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.command_line import example
from fakes.private_daemon import PrivateDaemon

from ollama_bridge.client import Client
from ollama_bridge.daemon.loaded import unload_all
from ollama_bridge.digests import digest_file
from ollama_bridge.evaluation.report import STUDENT
from ollama_bridge.evaluation.served import evaluate_served
from ollama_bridge.models.gguf.reader import read_gguf
from ollama_bridge.publishing.papers import CARD_NAME
from ollama_bridge.recipe.loading import load_recipe
from ollama_bridge.reporting import Event, Reporter
from ollama_bridge.storage.artifacts import MANIFEST_NAME, Corpus, GGUFFile

pytestmark = pytest.mark.live

# The recipe's own path, with so little data that it takes two minutes: quality does not matter, but
# that the student answers with a word and ends.
SMALL = [
    "data.max_examples=100",
    "data.test_examples=12",
    "data.validation_examples=8",
    "teacher.tune.max_examples=64",
    "student.layers=6",
    "distill.epochs=1",
    "distill.min_steps=null",
    "evaluate.bootstrap_samples=200",
    "evaluate.served_examples=6",
    "export.types=[q8_0]",
]

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def command(
    daemon: PrivateDaemon, caches: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Command:
    """Runs the command line against the real daemon, with a home folder of its own."""
    home = tmp_path_factory.mktemp("build-home")

    def run(*args: str, timeout_s: float = 1200) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, **caches}
        env |= {"OLLAMA_HOST": daemon.host, "OLLAMA_BRIDGE_HOME": str(home)}
        return subprocess.run(
            [sys.executable, "-m", "ollama_bridge", *args],
            capture_output=True,
            text=True,
            env=env,
            timeout=timeout_s,
            check=False,
        )

    return run


def with_settings(settings: list[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


@pytest.fixture(scope="module")
def built(command: Command) -> dict[str, Any]:
    """What ``build sentiment-quick`` says of itself."""
    done = command(*example("build sentiment-quick"), "--json", *with_settings(SMALL))
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


class Heard(Reporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)


def test_deleted_model_that_is_still_loaded_stops_nobody(
    daemon: PrivateDaemon, teacher_gguf: Path
) -> None:
    """A tag deleted while it was loaded cannot be unloaded; the others are, and it is said."""
    with daemon.client() as client:
        digest = f"sha256:{digest_file(teacher_gguf)}"
        if not client.has_blob(digest):
            client.upload_blob(teacher_gguf, digest)
        client.create({"model": "live-gone", "files": {"model.gguf": digest}})
        client.generate("live-gone", "Hi", options={"num_predict": 1})
        client.delete("live-gone")
        assert "live-gone:latest" in {model.name for model in client.ps()}
        heard = Heard()
        unload_all(client, heard)
        assert "live-gone:latest was deleted" in str(heard.events)
        assert {model.name for model in client.ps()} <= {"live-gone:latest"}


def test_build_makes_proven_tags(built: dict[str, Any], daemon: PrivateDaemon) -> None:
    """The tags are in the daemon, and each has a certificate that says it was proven."""
    names = {model.name for model in daemon.client().list()}
    assert {"review-sentiment-quick:latest", "review-sentiment-quick:teacher"} <= names
    assert not [name for name in names if "candidate" in name]
    assert all(certificate["passed"] for certificate in built["certificates"])


def test_ollama_run_and_client_agree(built: dict[str, Any], daemon: PrivateDaemon) -> None:
    """``ollama run TAG`` and ``Client`` give the same answer to the same text."""
    tag = built["tags"][0]
    text = "The battery died after two days and nobody answered my mails."
    env = {**os.environ, "OLLAMA_HOST": daemon.host}
    said = subprocess.run(
        [str(daemon.binary), "run", tag, text], capture_output=True, text=True, env=env, check=True
    ).stdout.strip()
    with Client(daemon.host) as client:
        reply = client.generate(tag, text)
    assert reply.done_reason == "stop"
    assert said == reply.text


def test_report_has_teacher_student_and_control(built: dict[str, Any]) -> None:
    """The report always shows the SFT control beside student and teacher."""
    report = json.loads((Path(built["run_dir"]) / "report" / "report.json").read_text())
    assert {"teacher zero-shot", "teacher tuned", "student", "SFT control"} <= set(report["models"])


def test_model_card_tells_it_all(command: Command, built: dict[str, Any]) -> None:
    """Scores in torch and as served, the data, every stage with its input, and the proof."""
    done = command(*example("card review-sentiment", {"review-sentiment": built["tags"][0]}))
    assert done.returncode == 0, done.stderr
    text = done.stdout
    assert text.count("macro F1") >= 2
    assert "Proven equal to its checkpoint" in text
    assert "| train | 100 |" in text
    for stage in ("import", "prepare", "finetune", "label", "distill", "convert", "register"):
        assert f"| {stage} |" in text
    assert "distilled from a larger one" in text
    assert str(Path(built["run_dir"]).parent) not in text
    assert Path(built["run_dir"], CARD_NAME).read_text(encoding="utf-8") == text


def test_second_build_does_nothing_again(command: Command, built: dict[str, Any]) -> None:
    """The same command finds every stage done."""
    events = Path(built["run_dir"]) / "events.jsonl"
    before = len(events.read_text().splitlines())
    done = command("build", "sentiment-quick", "--json", *with_settings(SMALL))
    assert done.returncode == 0, done.stderr
    new = [json.loads(line) for line in events.read_text().splitlines()[before:]]
    assert "StageReused" in {event["event"] for event in new}
    finished = [event["stage"] for event in new if event["event"] == "StageFinished"]
    assert finished == []


def test_what_an_earlier_version_trained_is_proven_by_values_of_today(
    command: Command, built: dict[str, Any]
) -> None:
    """Neither trained nor scored in torch again; the card keeps the scores, the file its origin."""
    run_dir = Path(built["run_dir"])
    own = read_gguf(run_dir / "student-q8_0" / "model.gguf").metadata
    manifest = run_dir / "student" / MANIFEST_NAME
    content = json.loads(manifest.read_text(encoding="utf-8"))
    del content["facts"]["reference_key"]
    manifest.write_text(json.dumps(content), encoding="utf-8")
    events = run_dir / "events.jsonl"
    before = len(events.read_text().splitlines())
    done = command("build", "sentiment-quick", "--json", *with_settings(SMALL))
    assert done.returncode == 0, done.stderr[-4000:]
    new = [json.loads(line) for line in events.read_text().splitlines()[before:]]
    finished = {event["stage"] for event in new if event["event"] == "StageFinished"}
    assert finished == {"reference", "convert", "register", "served"}
    assert all(certificate["passed"] for certificate in json.loads(done.stdout)["certificates"])
    assert (run_dir / CARD_NAME).read_text(encoding="utf-8").count("macro F1") >= 2
    keys = read_gguf(run_dir / "student-q8_0" / "model.gguf").metadata
    for name in ("general.name", "ollama_bridge.recipe.sha256", "ollama_bridge.input.corpus"):
        assert keys[name] == own[name]


def test_strangers_csv_goes_through(
    command: Command, daemon: PrivateDaemon, built: dict[str, Any], tmp_path: Path
) -> None:
    """300 rows with BOM, quotes, line breaks and missing cells, and a teacher of one's own."""
    assert built["tags"]
    with daemon.client() as client:
        client.copy("smollm2:135m", "house-model:1")
    rng = random.Random(5)
    good = ["works great", "love it", "excellent, really", "fast and quiet", "happy with it"]
    bad = ["broke at once", 'awful "quality"', "waste of money", "too loud,\nand slow", "refund!"]
    file = tmp_path / "My Shop.csv"
    with file.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "Review", "Mood"])
        for number in range(300):
            mood = rng.choice(["positive", "negative"])
            words = rng.choice(good if mood == "positive" else bad)
            text = f"{words} - item {number} {rng.choice('abcdefgh') * 3} shelf {number * 7}"
            writer.writerow([number, "" if number in (17, 170) else text, mood])
    settings = [
        *SMALL,
        "data.max_examples=40",
        "control.enabled=false",
        "evaluate.served=false",
        "teacher.tune=null",
        "export.budget_nats=0.02",
    ]
    done = command(
        "build",
        "sentiment-quick",
        "--json",
        *("--data", str(file), "--text-col", "Review", "--label-col", "Mood"),
        *("--teacher", "ollama:house-model:1"),
        *with_settings(settings),
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "19" in done.stderr  # the row of the first missing cell, header counted
    made = json.loads(done.stdout)
    main, budget = (f"review-sentiment-quick-my-shop:{name}" for name in ("latest", "budget"))
    assert {main, budget} <= {model.name for model in daemon.client().list()}
    assert all(certificate["passed"] for certificate in made["certificates"])
    gguf = GGUFFile.open(Path(made["run_dir"]) / "student-budget")
    assert gguf.facts["budget"]["kl_nats"] <= 0.02


def test_reply_recipe_ends_its_answers(
    command: Command, daemon: PrivateDaemon, tmp_path: Path
) -> None:
    """The second shape of task: answers written by the teacher through the daemon, many tokens."""
    settings = [
        "data.max_examples=12",
        "data.test_examples=4",
        "data.validation_examples=4",
        "data.dialogue_examples=10",
        "student.layers=12",
        "distill.epochs=1",
        "distill.min_steps=null",
        "evaluate.max_examples=2",
        "evaluate.served_examples=2",
        "evaluate.served=false",  # its teacher's tag would take as long as its student
        "teacher.answer_tokens=32",
        "control.enabled=false",
    ]
    done = command("build", "reply", "--json", *with_settings(settings))
    assert done.returncode == 0, done.stderr[-4000:]
    recipe = load_recipe("reply", overrides=settings)
    with daemon.client() as client:
        assert "review-reply:latest" in {model.name for model in client.list()}
        served = evaluate_served(
            {STUDENT: "review-reply:latest"},
            Corpus.open(Path(json.loads(done.stdout)["run_dir"]) / "answers"),
            recipe.evaluate,
            recipe.task,
            client=client,
            out_dir=tmp_path / "served",
        )
    entry = json.loads(served.report_path.read_text())["models"][STUDENT]
    assert 0 <= entry["ended"] <= 1
    assert entry["mean_tokens"] > 1
