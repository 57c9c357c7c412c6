"""What the pipeline decides by the recipe alone; the live tier runs it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes.daemon import FakeDaemon, nobody_listens
from fakes.recipes import own_recipe

from ollama_bridge import pipeline
from ollama_bridge.client import Client
from ollama_bridge.errors import ConfigError, ModelReferenceError
from ollama_bridge.models.sources.resolve import resolve_model
from ollama_bridge.pipeline import _Build, _Teacher
from ollama_bridge.recipe.config import Recipe
from ollama_bridge.reporting import Note, NullReporter
from ollama_bridge.storage.artifacts import Checkpoint
from ollama_bridge.train import qlora

STORED, LIVE = {"kd_weight": 0.5}, {"teacher": "live"}


def recipe(**sections: Any) -> Recipe:
    return own_recipe(sections)


@pytest.mark.parametrize(
    ("soft_labels", "distill", "student", "needed"),
    [
        ("local", STORED, "teacher", True),
        ("local", STORED, "./other", True),
        ("daemon", STORED, "./other", False),
        ("daemon", STORED, "teacher", True),
        ("daemon", LIVE, "./other", True),
        ("none", {"kd_weight": 0}, "./other", False),
    ],
)
def test_weights_are_fetched_only_where_torch_needs_them(
    soft_labels: str, distill: dict[str, Any], student: str, needed: bool
) -> None:
    """To give soft labels, to run beside the student, or to be cut into it."""
    teacher = {"model": "ollama:m", "answers": "daemon", "soft_labels": soft_labels}
    built = recipe(teacher=teacher, distill=distill, student={"model": student})
    assert built.needs_teacher_weights == needed


@pytest.mark.parametrize(
    ("role", "model", "said"),
    [
        ("teacher", "./none", "none: no such folder"),
        ("teacher", "nonsense", "has no prefix"),
        ("student", "none.gguf", "none.gguf: no such file"),
    ],
)
def test_models_that_are_not_there_are_told_before_data_are_read(
    role: str, model: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slip in a name would cost a download and the preparation of a corpus."""
    monkeypatch.setattr(pipeline, "ensure_daemon", None)
    with pytest.raises(ModelReferenceError, match=said):
        pipeline.build(recipe(**{role: {"model": model}}))


def test_what_cannot_be_made_is_told_before_the_teacher_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that is not there, and is none that we could provide, while no answer was written."""
    provided: list[str] = []
    monkeypatch.setattr(pipeline, "provide_teacher", lambda model, *_: provided.append(model))
    rows = [{"messages": [{"role": "user", "content": f"Say {n}."}]} for n in range(60)]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    built = recipe(
        data={"source": "messages", "path": str(file)},
        teacher={"model": "ollama:m", "answers": "daemon", "soft_labels": "none"},
        distill={"kd_weight": 0},
        student={"model": "./nowhere"},
    )
    with FakeDaemon() as daemon, Client(daemon.host) as client:
        with pytest.raises(ModelReferenceError, match="nowhere"):
            _Build(built, tmp_path / "run", client, NullReporter()).run()
        assert not daemon.questions
    assert provided == ["ollama:m", "./nowhere"]


def test_what_cannot_be_tuned_is_told_before_the_teacher_is_asked(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that is missing, while no answer was written."""
    monkeypatch.setattr(qlora, "find_spec", lambda _: None)
    found = resolve_model(str(tiny_checkpoint), cache_dir=tmp_path / "cache")
    corpus: Any = None  # is not read before
    built = recipe(teacher={"model": str(tiny_checkpoint), "tune": {"method": "qlora"}})
    with Client() as client, pytest.raises(ConfigError, match="needs bitsandbytes"):
        _Build(built, tmp_path, client, NullReporter()).check_can_be_built(found, corpus)


@pytest.mark.parametrize(("answers", "looks"), [("gold", 0), ("daemon", 2)])
def test_answers_are_looked_at_again_only_where_they_were_written(
    answers: str, looks: int, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the data were looked at before, and what was said of them is not said twice."""
    looked: list[Recipe] = []
    for name in ("length_checks.check_lengths", "build_checks.check_labels"):
        monkeypatch.setattr(f"ollama_bridge.{name}", lambda of, *_, **__: looked.append(of))
    found = resolve_model(str(tiny_checkpoint), cache_dir=tmp_path / "cache")
    monkeypatch.setattr("ollama_bridge.train.finetune.finetune", lambda *_, **__: found)
    corpus: Any = None
    built = recipe(teacher={"model": "ollama:m", "answers": answers, "tune": {}})
    with Client() as client:
        _Build(built, tmp_path, client, NullReporter()).tune(found, corpus)
    assert looked == looks * [built]


def test_a_student_starts_from_the_tuned_teacher_or_from_its_own_model(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever teaches it."""
    monkeypatch.setenv("OLLAMA_BRIDGE_HOME", str(tmp_path / "home"))
    found = resolve_model(str(tiny_checkpoint), cache_dir=tmp_path / "cache")
    teacher = _Teacher(found, Checkpoint(tmp_path / "tuned", found.manifest))
    with Client() as client:
        of_layers = _Build(recipe(), tmp_path, client, NullReporter())
        of_its_own = _Build(
            recipe(student={"model": str(tiny_checkpoint)}), tmp_path, client, NullReporter()
        )
        assert of_layers.find_start(teacher) is teacher.tuned
        for taught_by in (teacher, None):
            assert of_its_own.find_start(taught_by).digest == found.digest


def test_the_control_repeats_no_note_of_the_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads the same texts by the same limits; what it alone has to say is said."""
    told: list[tuple[str, str]] = []
    reporter: Any = SimpleNamespace(emit=lambda note: told.append((note.stage, note.message)))

    def train(build: _Build, *_: object, folder: str, **__: object) -> None:
        for message in ("3 are too long", f"{folder} needs 2 GB", "3 are too long"):
            build.reporter.emit(Note(folder, "warning", message))

    for name in (
        *("prepare", "find_teacher", "check_can_be_built", "write_answers", "tune"),
        *("find_start", "label", "evaluate", "evaluate_served"),
    ):
        monkeypatch.setattr(_Build, name, lambda *_: None)
    registered = [SimpleNamespace(tag="mine")]
    monkeypatch.setattr(_Build, "convert_and_register", lambda *_: registered)
    monkeypatch.setattr(_Build, "train", train)
    for name in ("provide_teacher", "unload_all", "write_card"):
        monkeypatch.setattr(pipeline, name, lambda *_, **__: None)
    with Client() as client:
        _Build(recipe(), tmp_path, client, reporter).run()
    assert told == [
        ("student", "3 are too long"),
        ("student", "student needs 2 GB"),
        ("student", "3 are too long"),
        ("control", "control needs 2 GB"),
    ]


def test_a_teacher_that_is_not_tuned_is_one_model(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """And where the daemon alone is asked, it is none."""
    found = resolve_model(str(tiny_checkpoint), cache_dir=tmp_path / "cache")
    corpus: Any = None  # is not read where nothing is tuned
    with Client() as client:
        build = _Build(recipe(), tmp_path, client, NullReporter())
        teacher = build.tune(found, corpus)
        assert teacher == _Teacher(found, found)
        assert not teacher.is_tuned
        assert build.tune(None, corpus) is None


@pytest.mark.parametrize(
    ("here", "left_out"),
    [
        (FakeDaemon(), None),
        (FakeDaemon(models={}), "has no model 'm'"),
        (FakeDaemon(shown={"modelfile": "FROM /x/sha256-" + "a" * 64}), "another model"),
    ],
)
def test_a_teacher_elsewhere_is_served_here_only_where_it_is(
    tmp_path: Path, here: FakeDaemon, left_out: str | None
) -> None:
    """Of a model that the daemon lacks, ``create`` pulls another, or ends the build."""
    told: list[Any] = []
    reporter: Any = SimpleNamespace(emit=told.append)
    corpus: Any = None
    with FakeDaemon() as box, here, Client(here.host) as client:
        asked = {"model": "ollama:m", "answers": "daemon", "soft_labels": "none"}
        asked |= {"hosts": [nobody_listens(), box.host]}
        built = recipe(teacher=asked, distill={"kd_weight": 0}, student={"model": "./other"})
        tag = _Build(built, tmp_path, client, reporter).serve_teacher(None, corpus)
        created = [one.json for one in here.asked if one.path == "/api/create"]
    if left_out is None:
        assert tag == "mine:teacher"
        assert [one["from"] for one in created] == ["m"]
        assert not told
    else:
        assert tag is None
        assert not created
        assert left_out in told[0].message
