"""A run belongs to one build at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ollama_bridge import cli, pipeline
from ollama_bridge.config import Recipe, parse_recipe
from ollama_bridge.errors import ArtifactError
from ollama_bridge.run_folder import hold_run

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
        assert not (tmp_path / "run" / pipeline.EVENTS_NAME).exists()


def test_run_that_is_built_cannot_be_removed(tmp_path: Path) -> None:
    """`runs rm` waits for nobody, and takes nothing away from a build."""
    run_dir = tmp_path / "run"
    with hold_run(run_dir):
        (run_dir / pipeline.EVENTS_NAME).touch()
        done = CliRunner().invoke(cli.app, ["runs", "rm", str(run_dir), "--yes"])
        assert isinstance(done.exception, ArtifactError)
    assert run_dir.is_dir()
    CliRunner().invoke(cli.app, ["runs", "rm", str(run_dir), "--yes"])
    assert not run_dir.exists()
