"""A recipe says everything that decides a build, and every mistake in it is told at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from ollama_bridge.assets import list_assets
from ollama_bridge.config import Recipe, load_recipe, parse_recipe
from ollama_bridge.errors import ConfigError, RecipeError


def minimal() -> dict[str, object]:
    return {
        "name": "mine",
        "description": "A recipe.",
        "task": {"kind": "classify", "system": "Which?", "labels": ["a", "b"]},
        "data": {"source": "vader"},
        "teacher": {"model": "ollama:smollm2:135m"},
        "export": {"tag": "mine"},
    }


@pytest.mark.parametrize("name", sorted(list_assets("recipes")))
def test_shipped_recipes_are_valid(name: str) -> None:
    """Every shipped recipe loads under its file's name."""
    assert load_recipe(name).name == name


def test_unknown_key_is_told_with_the_nearest_right_one() -> None:
    """A typo names its place and the key that was meant."""
    data = minimal() | {"distill": {"learning_rate": 1, "epoch": 2}}
    with pytest.raises(RecipeError) as caught:
        parse_recipe(data, source="mine.yaml")
    assert "distill.epoch: unknown key; did you mean distill.epochs?" in str(caught.value)


def test_all_problems_are_told_at_once() -> None:
    """Two wrong values are two lines of one error."""
    data = minimal() | {"distill": {"lr": -1, "kd_weight": 2}}
    with pytest.raises(RecipeError) as caught:
        parse_recipe(data, source="mine.yaml")
    assert len(caught.value.problems) == 2
    assert "distill.kd_weight" in str(caught.value)
    assert "distill.lr" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("distill.lr=1e-4", ("distill", "lr"), 1e-4),
        ("distill.epochs=3", ("distill", "epochs"), 3),
        ("student.layers=[0, 5]", ("student", "layers"), (0, 5)),
        ("teacher.tune.epochs=2", ("teacher", "tune", "epochs"), 2),
        ("data.label_map.pos=a", ("data", "label_map", "pos"), "a"),
    ],
)
def test_override_changes_one_key(override: str, path: tuple[str, ...], value: object) -> None:
    """``--set`` reads YAML values, and numbers as people write them."""
    found: object = parse_recipe(minimal(), source="x", overrides=[override])
    for part in path:
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value


@pytest.mark.parametrize("override", ["distill.lr", "=3", "distill.lr=[", "distil.lr=3"])
def test_bad_override_is_told(override: str) -> None:
    """An override without value, key, YAML or known section is a problem of the recipe."""
    with pytest.raises(RecipeError):
        parse_recipe(minimal(), source="x", overrides=[override])


def test_drawn_labels_have_one_temperature() -> None:
    """Labels that are drawn at 1 cannot be learnt from at 2; said before anything is labelled."""
    drawn = ["soft_labels.method=sampled", "distill.temperature=2"]
    with pytest.raises(RecipeError, match="sampled soft labels are drawn at 1"):
        parse_recipe(minimal(), source="x", overrides=drawn)
    section = parse_recipe(minimal(), source="x", overrides=drawn[:1]).soft_labels
    assert section.effective() == {"method": "sampled", "draws": 30, "seed": 0}


def test_recipe_survives_a_round_trip() -> None:
    """Recipe -> plain data -> recipe is the identity."""
    recipe = parse_recipe(minimal(), source="x")
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_relative_data_path_belongs_to_the_recipe_file(tmp_path: Path) -> None:
    """``path: rows.csv`` lies beside the recipe, wherever the command runs."""
    file = tmp_path / "mine.yaml"
    file.write_text(
        "{name: mine, description: d, task: {kind: classify, system: s, labels: [a, b]},"
        "data: {source: table, path: rows.csv}, teacher: {model: 'ollama:m'}, export: {tag: t}}"
    )
    assert load_recipe(file).data.path == tmp_path / "rows.csv"


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "\x00"])
def test_file_that_is_no_recipe_is_told(tmp_path: Path, text: str) -> None:
    """Anything but a mapping is one clear error."""
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError):
        load_recipe(file)


def test_unknown_recipe_lists_the_shipped_ones() -> None:
    """A wrong name says which names there are."""
    with pytest.raises(ConfigError, match="sentiment"):
        load_recipe("sentimental")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"task": {"kind": "classify", "system": "s", "labels": ["a"]}}, "task.labels"),
        ({"task": {"kind": "reply", "system": "s", "labels": ["a", "b"]}}, "task.labels"),
        ({"data": {"source": "table"}}, "data.path"),
        ({"export": {"tag": "t", "max_size": "much"}}, "export.max_size"),
        ({"export": {"tag": "t", "max_size": "0MB"}}, "export.max_size"),
        ({"export": {"tag": "t", "budget_nats": 0}}, "export.budget_nats"),
        ({"export": {"tag": "t", "budget_nats": 0.1, "max_size": "9MB"}}, "export.max_size"),
        ({"export": {"tag": "no spaces"}}, "export.tag"),
        ({"data": {"source": "reviews"}}, "teacher.answers"),
        ({"name": "Not A Slug"}, "name"),
    ],
)
def test_parts_that_do_not_fit_are_named(change: dict[str, object], key: str) -> None:
    """Checks across keys name the key to change."""
    with pytest.raises(RecipeError, match=key):
        parse_recipe(minimal() | change, source="x")
