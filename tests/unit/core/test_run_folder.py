"""A run belongs to one build at a time, and to one data file."""

from __future__ import annotations

import json
import shlex
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from fakes.stops import disk_full_from
from typer.testing import CliRunner

from ollama_bridge import cli, pipeline
from ollama_bridge.assets import home_dir
from ollama_bridge.cli import completion
from ollama_bridge.errors import ArtifactError, ConfigError, DataError, DiskFullError
from ollama_bridge.publishing.papers import CARD_NAME
from ollama_bridge.recipe.config import Recipe
from ollama_bridge.recipe.loading import parse_recipe
from ollama_bridge.reporting import (
    Event,
    JSONLReporter,
    Note,
    Progress,
    StageFinished,
    StageStarted,
)
from ollama_bridge.run_folder import EVENTS_NAME, hold_run, name_of_data, note_origin
from ollama_bridge.storage.artifacts import MANIFEST_NAME
from ollama_bridge.storage.drafts import draft_path

RECIPE: dict[str, Any] = {
    "name": "mine",
    "description": "A recipe.",
    "task": {"kind": "classify", "system": "Which?", "labels": ["a", "b"]},
    "data": {"source": "vader"},
    "teacher": {"model": "ollama:smollm2:135m"},
    "export": {"tag": "mine"},
}


def recipe_of(**changes: object) -> Recipe:
    return parse_recipe({**RECIPE, **changes}, source="mine.yaml")


def test_second_build_of_a_run_is_refused(tmp_path: Path) -> None:
    """It would replace the corpus, or a model, that the first one reads."""
    with hold_run(tmp_path / "run"):
        with pytest.raises(ArtifactError, match="another process is writing"):
            pipeline.build(recipe_of(), out_dir=tmp_path / "run")
        assert not (tmp_path / "run" / EVENTS_NAME).exists()


def test_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    """Also before there is a stage, and in what no stage writes."""
    with pytest.raises(DiskFullError), disk_full_from(0), hold_run(tmp_path / "run"):
        pass
    with pytest.raises(DiskFullError), hold_run(tmp_path / "run"), disk_full_from(0):
        (tmp_path / "run" / "more").mkdir()


@pytest.mark.parametrize(
    ("left", "is_kept"),
    [({}, False), ({EVENTS_NAME: "{}\n", ".corpus.lock": ""}, False), ({"x": ""}, True)],
)
def test_what_is_refused_at_once_leaves_no_run(
    tmp_path: Path, left: dict[str, str], *, is_kept: bool
) -> None:
    """What was made stays; and so does a folder that was there before."""
    run_dir = tmp_path / "run"
    for stays in (is_kept, True):
        with pytest.raises(ConfigError), hold_run(run_dir):
            for name, text in left.items():
                (run_dir / name).write_text(text)
            raise ConfigError("no such base")
        assert run_dir.exists() == stays
        run_dir.mkdir(exist_ok=True)


@pytest.mark.parametrize("out", [None, "my out"])
def test_a_file_that_is_refused_does_not_take_the_name(tmp_path: Path, out: str | None) -> None:
    """Nothing was made of it; where something lies in another folder, its tag has the name."""
    run_dir, files = home_dir() / "runs" / "mine-train", [tmp_path / "a.csv", tmp_path / "b.csv"]
    for file in files:
        file.touch()
    if out is not None:
        note_origin(run_dir, files[0], out_dir=tmp_path / out)
    before = (run_dir / "origin.json").read_text() if out else None
    note_origin(run_dir, files[0])
    with pytest.raises(DataError), hold_run(run_dir):
        (run_dir / EVENTS_NAME).write_text("{}\n")
        raise DataError("line 223: not JSON")
    assert json.loads(CliRunner().invoke(cli.app, ["runs", "ls", "--json"]).stdout) == []
    if out is None:
        note_origin(run_dir, files[1])
        return
    assert (run_dir / "origin.json").read_text() == before
    with pytest.raises(ConfigError):
        note_origin(run_dir, files[1])


def test_run_that_is_built_cannot_be_removed(tmp_path: Path) -> None:
    """`runs rm` waits for nobody, and takes nothing away from a build."""
    run_dir = tmp_path / "run"
    with hold_run(run_dir):
        (run_dir / EVENTS_NAME).touch()
        done = CliRunner().invoke(cli.app, ["runs", "rm", str(run_dir), "--yes"])
        assert isinstance(done.exception, ArtifactError)
    assert run_dir.is_dir()
    CliRunner().invoke(cli.app, ["runs", "rm", str(run_dir), "--yes"])
    assert not run_dir.exists()


def test_files_of_one_name_do_not_replace_each_other(tmp_path: Path) -> None:
    """The second is refused; the first may be built again, and replaced once it is gone."""
    first, second = tmp_path / "a" / "train.csv", tmp_path / "b" / "train.csv"
    for path in (first, second):
        path.parent.mkdir()
        path.write_text("text,label\n")
    run_dir = tmp_path / "runs" / "mine-train"
    note_origin(run_dir, first)
    (run_dir / EVENTS_NAME).touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    note_origin(run_dir, tmp_path / "link" / "train.csv")
    with pytest.raises(
        ConfigError, match=r"mine-train is the name of what was made of .*train\.csv"
    ) as caught:
        note_origin(run_dir, second)
    assert "--out FOLDER --tag TAG" in (caught.value.hint or "")
    assert "ollama-bridge runs rm mine-train" in (caught.value.hint or "")
    first.unlink()
    note_origin(run_dir, second)


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("out", [None, "my out"])
def test_a_name_that_is_taken_is_freed_by_what_the_error_says(
    tmp_path: Path, out: str | None, *, begun: bool
) -> None:
    """Also where nothing is left but the note: the run may be elsewhere now, and has a tag."""
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    for path in (first, second):
        path.touch()
    run_dir = home_dir() / "runs" / "mine-train"
    out_dir = None if out is None else tmp_path / out
    note_origin(run_dir, first, out_dir=out_dir)
    if begun:
        (out_dir or run_dir).mkdir(exist_ok=True)
        ((out_dir or run_dir) / EVENTS_NAME).touch()
    tried = 0
    while tried < 2:
        try:
            note_origin(run_dir, second, out_dir=out_dir)
        except ConfigError as error:
            tried += 1
            _, _, freeing = (error.hint or "").rpartition(": ")
            program, *words = shlex.split(freeing)
            if program == "rm":
                Path(*words).unlink()
            else:
                CliRunner().invoke(cli.app, [*words, "--yes"])
        else:
            break
    assert tried == (2 if begun and out else 1)


def test_a_name_that_is_only_taken_is_no_run(tmp_path: Path) -> None:
    """A run by ``--out`` is told by where it is; one that was refused is nowhere."""
    runs, data, out = home_dir() / "runs", tmp_path / "train.csv", tmp_path / "my out"
    for name in ("here", "away", "refused"):
        folder = None if name == "here" else out / name
        note_origin(runs / name, data, out_dir=folder)
        (runs / name if folder is None else folder).mkdir(parents=True, exist_ok=True)
    for folder in (runs / "here", out / "away"):
        (folder / EVENTS_NAME).touch()
    listed = CliRunner().invoke(cli.app, ["runs", "ls", "--json"])
    assert [run["name"] for run in json.loads(listed.stdout)] == completion.runs("") == ["here"]
    for words in (["runs", "show", "away"], ["runs", "rm", "away", "--yes"]):
        error = CliRunner().invoke(cli.app, words).exception
        assert isinstance(error, ConfigError)
        assert f"made with --out {out / 'away'}" in str(error)
        assert error.hint == f"ollama-bridge runs show '{out / 'away'}'"
    error = CliRunner().invoke(cli.app, ["runs", "show", "refused"]).exception
    assert str(error).startswith("no run 'refused'")
    note_origin(runs / "away", data)  # built again, in the home folder
    (runs / "away" / EVENTS_NAME).touch()
    assert completion.runs("") == ["away", "here"]


def test_runs_that_are_not_finished_are_told() -> None:
    """One that was stopped within a stage, between two of them, or behind a finished one.

    A folder with nothing in it is none of a run that has come to its end.
    """
    runs = home_dir() / "runs"
    for name in ("between", "empty", "whole", "within", "values"):
        (runs / name).mkdir(parents=True)
        if name not in ("empty", "values"):  # those of `verify`, which writes no events
            (runs / name / EVENTS_NAME).touch()
    (runs / "values" / "model").mkdir()
    (runs / "values" / "model" / MANIFEST_NAME).touch()
    for name in ("whole", "within"):
        (runs / name / CARD_NAME).touch()
    draft_path(runs / "within" / "tags" / "mood").mkdir(parents=True)
    listed = CliRunner().invoke(cli.app, ["runs", "ls", "--json"])
    finished = {run["name"]: run["finished"] for run in json.loads(listed.stdout)}
    ended = {"whole": True, "values": True}
    assert finished == {"between": False, "empty": False, "within": False, **ended}
    rows = CliRunner().invoke(cli.app, ["runs", "ls"]).stdout.splitlines()
    assert [row.split()[1] for row in rows[1:]] == [
        "unfinished",
        "empty",
        "finished",
        "finished",
        "unfinished",
    ]


@pytest.mark.parametrize(
    ("stem", "name"),
    [("My Reviews", "my-reviews"), ("reviews_2024", "reviews-2024"), ("a" * 32, "a" * 32)],
)
def test_short_names_stay_what_they_are(tmp_path: Path, stem: str, name: str) -> None:
    """Spaces and capitals are no loss."""
    assert name_of_data(tmp_path / f"{stem}.csv") == name


def test_names_that_cannot_be_said_are_told_apart(tmp_path: Path) -> None:
    """Letters beyond a-z, and names that go on and on, get a digest of the name."""
    cyrillic, chinese = "\u043e\u0442\u0437\u044b\u0432\u044b", "\u8bad\u7ec3"
    stems = [cyrillic, chinese, "a" * 72, "a" * 73, "caf\xe9", "cafe"]
    names = [name_of_data(tmp_path / f"{stem}.csv") for stem in stems]
    assert len(set(names)) == len(stems)
    assert max(map(len, names)) <= 39
    for name in names:
        recipe_of(name=f"mine-{name}", export={"tag": f"mine-{name}"})


@pytest.mark.parametrize(
    ("stem", "begin"),
    [("Gr\xf6\xdfe", "grosse-"), ("Daten f\xfcr mich", "daten-fur-mich-"), ("\u8bad", "data-")],
)
def test_a_run_is_found_wherever_its_file_is_moved(tmp_path: Path, stem: str, begin: str) -> None:
    """Whatever letters it has, and however a system writes them: nothing is done twice."""
    name = name_of_data(tmp_path / f"{stem}.csv")
    assert name.startswith(begin)
    decomposed = unicodedata.normalize("NFD", stem)
    assert name_of_data(tmp_path / "moved" / f"{decomposed}.csv") == name


def test_tags_are_checked_before_anything_is_made(tmp_path: Path) -> None:
    """Ollama's limit of 80 characters is no surprise at the end of a training."""
    recipe = recipe_of(export={"tag": "m" * 81})
    with pytest.raises(ConfigError, match="81 characters"):
        pipeline.build(recipe, out_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("told", "at"),
    [
        ([], None),
        ([StageStarted("distill")], "distill"),
        ([StageStarted("label"), Progress("label", 3, 9, "texts")], "label 3/9 texts"),
        (
            [
                Progress("distill", 7, 61, "steps"),
                Note("label", "info", "x"),
                Note("distill", "info", "y"),
            ],
            "distill 7/61 steps",
        ),
        (
            [Progress("distill", 61, 61, "steps"), StageFinished("distill", "p", 2.0)],
            "distill done",
        ),
        ([Progress("convert", 1, 1, "files"), StageStarted("convert")], "convert"),
    ],
)
def test_a_run_that_is_running_says_what_it_has_come_to(told: list[Event], at: str | None) -> None:
    """Whoever asks from a second shell would take it for one to be begun again."""
    run = home_dir() / "runs" / "mine"
    with hold_run(run), JSONLReporter(run / EVENTS_NAME) as events:
        for event in told:
            events.emit(event)
        with (run / EVENTS_NAME).open("a") as stream:
            stream.write('{"half": "a li')
        listed = CliRunner().invoke(cli.app, ["runs", "ls", "--json"])
        (row,) = json.loads(listed.stdout)
        assert (row["state"], row["at"], row["finished"]) == ("running", at, False)
    (row,) = json.loads(CliRunner().invoke(cli.app, ["runs", "ls", "--json"]).stdout)
    assert (row["state"], row["at"]) == ("unfinished", None)
