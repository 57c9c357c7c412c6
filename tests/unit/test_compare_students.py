"""``scripts/compare-students``: what its scores and the teacher's logits are found by."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest
from fakes.trainable import SPLITS, commit, corpus_of, sentiment_examples
from fakes.turn_ends import build_speaker

from ollama_bridge.evaluation.classify import score_labels
from ollama_bridge.models.compute.precision import choose_precision
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.recipe.loading import load_recipe
from ollama_bridge.reporting import NullReporter
from ollama_bridge.storage.artifacts import Checkpoint, Manifest

SCRIPT = Path(__file__).parents[2] / "scripts/compare-students"


@pytest.fixture
def script() -> Iterator[ModuleType]:
    """The script as a module."""
    name = "compare_students"
    spec = importlib.util.spec_from_loader(name, SourceFileLoader(name, str(SCRIPT)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look their annotations up
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[name]


def test_what_an_arm_cost_is_held_against_the_base_arm_of_the_same_seeds(
    script: ModuleType,
) -> None:
    costs = {"kd-0": (9.0, 10.0), "kd-1": (9.0, 20.0), "live-1": (30.0, 40.0), "live-2": (1.0, 8.0)}
    assert script.spent_by("live", [0, 1, 2], costs) == {
        "wall_s": 16,
        "cpu_s": 24,
        "cpu_to_base": 2.0,  # of seed 1, which both have
    }
    assert script.spent_by("live", [2], {"live-2": (1.0, 8.0)}) == {"wall_s": 1, "cpu_s": 8}
    assert script.spent_by("live", [0], costs) == {}


@pytest.mark.parametrize(("manner", "ends"), [("plain", "each by itself"), ("instruct", None)])
def test_where_other_tokens_are_learnt_than_once_nothing_of_then_is_found(
    script: ModuleType, manner: str, ends: str | None, tmp_path: Path
) -> None:
    """The logits of a teacher have a row for each of them."""
    examples = [
        replace(one, messages=(*one.messages, *one.messages[1:]))
        for one in sentiment_examples(4, name="x")
    ]
    corpus = corpus_of(tmp_path / "corpus", dict.fromkeys(SPLITS, examples))
    teacher = commit(Checkpoint, tmp_path / "teacher", lambda path: build_speaker(manner, path))
    sources = script.Sources(corpus, teacher, None)
    ruler = script.Ruler(sources, load_recipe("reply"), tmp_path / "out")
    ruler.score(teacher, "student", "validation")
    for made in ("student-validation", ".teacher-logits-validation"):
        settings = Manifest.read(tmp_path / "out/scores" / made).work.settings
        assert settings.get("answers end") == ends


def test_labels_that_begin_alike_are_told_apart(script: ModuleType, tmp_path: Path) -> None:
    """By all of their tokens, as the report scores them."""
    labels = ("positive a", "positive b")
    examples = [replace(one, label=labels[0]) for one in sentiment_examples(8, name="x")]
    corpus = corpus_of(tmp_path / "corpus", dict.fromkeys(SPLITS, examples))
    teacher = commit(Checkpoint, tmp_path / "teacher", lambda path: build_speaker("plain", path))
    recipe = load_recipe("sentiment", overrides=[f"task.labels={json.dumps(labels)}"])
    ruler = script.Ruler(script.Sources(corpus, teacher, None), recipe, tmp_path / "out")
    said = ruler.score(teacher, "student", "validation").columns()["said"]
    expected = score_labels(
        load_model(teacher.path),
        load_tokenizer(teacher.path),
        examples,
        labels,
        precision=choose_precision(),
        stage="score",
        reporter=NullReporter(),
    ).predictions(labels)
    assert said.tolist() == expected


def test_no_noise_of_file_types_is_estimated_of_an_arm(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes passes of the model for each type, and no arm becomes a file."""
    seen: dict[str, object] = {}
    monkeypatch.setattr(script, "distill", lambda *given, **named: seen.update(named))
    (arm,) = [arm for arm in script.ARMS if arm.name == "sft"]
    sources = script.Sources(None, None, None)
    script.train(load_recipe("reply"), arm, sources, tmp_path, "sft-0", NullReporter())
    assert seen["noise_types"] == ()
