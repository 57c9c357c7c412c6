"""The tags of a build are proven by values of today's code, whoever trained their weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from fakes.ggufs import metadata_of
from fakes.models import build_tiny_checkpoint

from ollama_bridge.client import Client
from ollama_bridge.digests import canonical_json, digest_text
from ollama_bridge.models.reference.values import with_reference_values, write_reference_values
from ollama_bridge.models.sources.given_template import with_chat_template
from ollama_bridge.pipeline import _Build, _Teacher
from ollama_bridge.recipe.config import Recipe
from ollama_bridge.recipe.loading import parse_recipe
from ollama_bridge.reference import NOISE_TYPES, ReferenceValues, noise_types_of
from ollama_bridge.reporting import NullReporter
from ollama_bridge.storage.artifacts import Checkpoint, GGUFFile, Work
from ollama_bridge.storage.drafts import open_draft

SYSTEM, LABELS = "Good or bad?", ("good", "bad")
SETTINGS = {"lr": 1.0}


class Unregistered(_Build):
    """Ends with the file that a tag would be made of: no daemon is asked."""

    def register(self, gguf: GGUFFile, tag: str) -> Any:
        """The file."""
        return gguf


def build_in(run_dir: Path) -> Unregistered:
    return Unregistered(recipe(), run_dir, Client(), NullReporter())


def recipe() -> Recipe:
    data = {
        "name": "mine",
        "description": "A recipe.",
        "task": {"kind": "classify", "system": SYSTEM, "labels": list(LABELS)},
        "data": {"source": "table", "path": "mine.csv", "text_col": "text", "label_col": "label"},
        "teacher": {"model": "ollama:m", "tune": {}},
        "export": {"tag": "mine", "types": ["f32"]},
    }
    return parse_recipe(data, source="mine.yaml")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder as a training of today leaves it, and what it records of its values."""
    folder = build_tiny_checkpoint(tmp_path_factory.mktemp("weights") / "w")
    types = noise_types_of("f32")
    return folder, write_reference_values(folder, system=SYSTEM, labels=LABELS, noise_types=types)


def trained(
    weights: tuple[Path, dict[str, str]], out_dir: Path, *, stage: str, earlier: bool
) -> Checkpoint:
    """A finished training; an earlier version recorded nothing, and had other values."""
    folder, key = weights
    work = Work("checkpoint", stage, 3, inputs={"corpus": "c" * 64}, settings=SETTINGS)
    with open_draft(out_dir, work) as draft:
        shutil.copytree(folder, draft.path, dirs_exist_ok=True)
        if earlier:
            path = draft.path / "reference.json"
            values = ReferenceValues.read(path)
            values.model_copy(update={"limits": ("that of an earlier version",)}).write(path)
        return Checkpoint(out_dir, draft.commit({} if earlier else key))


@pytest.mark.parametrize("earlier", [False, True], ids=["of today", "of an earlier version"])
def test_a_trained_model_is_served_with_the_values_of_today(
    weights: tuple[Path, dict[str, str]], tmp_path: Path, earlier: bool
) -> None:
    """It is not trained again for them, and its file names its training; today's has them."""
    student = trained(weights, tmp_path / "student", stage="distill", earlier=earlier)
    tuned = trained(weights, tmp_path / "teacher", stage="finetune", earlier=earlier)
    before = student.digest
    corpus: Any = None  # nothing is measured on it
    build = build_in(tmp_path)
    files: Any = build.convert_and_register(student, corpus)
    assert build.serve_teacher(_Teacher(student, tuned), corpus) == "mine:teacher"
    for gguf, stage in (
        (files[0], "distill"),
        (GGUFFile.open(tmp_path / "teacher-f32"), "finetune"),
    ):
        assert ReferenceValues.read(gguf.reference_path) == ReferenceValues.read(
            weights[0] / "reference.json"
        )
        keys = metadata_of(gguf.gguf_path)
        assert keys["ollama_bridge.checkpoint.stage"] == stage
        assert keys["ollama_bridge.input.corpus"] == "c" * 64
        assert keys["ollama_bridge.recipe.sha256"] == digest_text(canonical_json(SETTINGS))
    assert Checkpoint.open(student.path, verify_digests=True).digest == before
    copies = {path.name for path in tmp_path.glob("*-values")}
    assert copies == ({"student-values", "teacher-values"} if earlier else set())
    again: Any = build_in(tmp_path).convert_and_register(student, corpus)
    assert again[0].manifest == files[0].manifest


@pytest.mark.parametrize(
    ("noise_types", "has_them"),
    [((), True), (("f16",), True), (("f16", "q5_0"), False), (NOISE_TYPES, False)],
)
def test_a_trained_model_is_packaged_with_the_values_that_it_has(
    weights: tuple[Path, dict[str, str]],
    tmp_path: Path,
    *,
    noise_types: tuple[str, ...],
    has_them: bool,
) -> None:
    """Its training estimated the noise of its build's files; that of others is estimated then."""
    student = trained(weights, tmp_path / "student", stage="distill", earlier=False)
    made = with_reference_values(
        student, system=SYSTEM, labels=LABELS, noise_types=noise_types, out_dir=tmp_path / "made"
    )
    assert (made is student) == has_them
    assert set(noise_types) <= ReferenceValues.read(made.reference_path).noise.keys()


def test_training_estimates_the_noise_of_the_files_that_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And of no other type: each takes seconds, of every student of a build."""
    asked: dict[str, Any] = {}

    def train(*_: object, out_dir: Path, **options: Any) -> None:
        asked[out_dir.name] = options.get("noise_types")

    monkeypatch.setattr("ollama_bridge.train.distill.distill", train)
    data = recipe().model_dump()
    data["export"]["types"] = ["q4_k_m", "q5_0", "q4_k_s", "q2_k"]
    build = Unregistered(parse_recipe(data, source="r"), tmp_path, Client(), NullReporter())
    anything: Any = None
    build.distill(anything, anything, anything, anything)
    build.distill_control(anything, anything)
    assert asked == {"student": ("q4_k_s", "q5_0"), "control": ("q4_k_s", "q5_0")}


def test_values_for_something_else_are_computed(
    weights: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    """For another system prompt; and for another chat template, whose copy has none at all."""
    student = trained(weights, tmp_path / "student", stage="distill", earlier=False)
    other = with_reference_values(
        student, system="Be brief.", labels=LABELS, out_dir=tmp_path / "other"
    )
    assert ReferenceValues.read(other.reference_path).system == "Be brief."
    template = tmp_path / "t.jinja"
    template.write_text(
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}<|im_end|>{% endfor %}[assistant] "
    )
    given = with_chat_template(student, template, cache_dir=tmp_path / "models")
    made = with_reference_values(given, system=SYSTEM, labels=LABELS, out_dir=tmp_path / "made")
    rendered = ReferenceValues.read(made.reference_path).conversations[0].rendered
    assert rendered.startswith("[system] ")
