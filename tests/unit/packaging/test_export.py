"""What can be known of a recipe's tags before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes.trainable import tiny_base

from ollama_bridge.config import Recipe, load_recipe
from ollama_bridge.errors import ConfigError, ConversionError
from ollama_bridge.export import check_answers_fit, check_can_be_written, check_tags


def recipe_of(*overrides: str) -> Recipe:
    return load_recipe("sentiment-quick", overrides=overrides)


def test_labels_are_counted_in_the_vocabulary_of_the_student(tmp_path: Path) -> None:
    """A recipe is refused whose tag would cut a label, and the fix that is told is one."""
    start = tiny_base(tmp_path / "base")
    long = ["task.labels=[positive, neither good nor bad but something in between]"]
    with pytest.raises(ConfigError, match="the tag would cut its answer") as caught:
        check_answers_fit(recipe_of(*long), start)
    _, _, fix = (caught.value.hint or "").partition("--set ")
    check_answers_fit(recipe_of(*long, fix), start)


@pytest.mark.parametrize(("tag", "problem"), [("m" * 81, "81 characters"), ("a.b/m", "namespace")])
def test_every_tag_is_checked(tag: str, problem: str) -> None:
    """By Ollama's grammar, which the recipe's own pattern is a part of."""
    check_tags(recipe_of())
    with pytest.raises(ConfigError, match=problem):
        check_tags(recipe_of(f"export.tag={tag}"))


@pytest.mark.parametrize(
    ("overrides", "replaced"),
    [
        (["teacher.model=ollama:support-bot", "export.tag=support-bot"], "teacher"),
        (["teacher.model=ollama:Support-Bot:latest", "export.tag=support-bot"], "teacher"),
        (["teacher.model=ollama:m:f16", "export.tag=m", "export.types=[q8_0, f16]"], "teacher"),
        (["teacher.model=ollama:m:teacher", "export.tag=m"], "teacher"),
        (["student.model=ollama:library/m", "student.layers=null", "export.tag=m"], "student"),
    ],
)
def test_no_tag_replaces_what_the_build_is_made_of(overrides: list[str], replaced: str) -> None:
    """A student called like its teacher would be served as both, and learn from itself then."""
    with pytest.raises(ConfigError, match=f"is the recipe's {replaced}, ") as caught:
        check_tags(recipe_of(*overrides))
    _, _, fix = (caught.value.hint or "").partition("--tag ")
    check_tags(recipe_of(*overrides, f"export.tag={fix}"))
    check_tags(recipe_of("teacher.model=ollama:m:7b", "export.tag=m"))


def test_a_start_that_no_gguf_can_be_made_of(tmp_path: Path) -> None:
    """Its tokenizer is refused while nothing is trained yet."""
    start = tiny_base(tmp_path / "base")
    check_can_be_written(start)
    path = start.path / "tokenizer.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "normalizer": {"type": "Lowercase"}}))
    with pytest.raises(ConversionError, match="Lowercase"):
        check_can_be_written(start)
