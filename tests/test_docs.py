"""What the documents say is what the code does."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ollama_bridge.cli.manual import fenced

CHECKOUT = Path(__file__).parent.parent
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")


def test_cli_reference_is_current(tmp_path: Path) -> None:
    """docs/cli.md is what scripts/gen-docs writes."""
    out = tmp_path / "cli.md"
    subprocess.run(
        [sys.executable, "-m", "typer", "ollama_bridge.cli", "utils", "docs"]
        + ["--name", "ollama-bridge", "--output", str(out)],
        check=True,
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "100"},
    )
    current = (CHECKOUT / "docs" / "cli.md").read_text(encoding="utf-8")
    summaries = re.findall(r"^\* `[a-z]+`: (.+)$", current, flags=re.MULTILINE)
    assert len(summaries) > 30
    assert [one for one in summaries if one.endswith("...")] == []
    assert current == fenced(out.read_text(encoding="utf-8")), "run scripts/gen-docs"


@pytest.mark.parametrize(
    "document", sorted(CHECKOUT.glob("*.md")) + sorted(CHECKOUT.glob("*/*.md"))
)
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link of a document is a file."""
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if not target.startswith(("http://", "https://")):
            assert (document.parent / target).exists(), target


def test_readme_python_is_valid() -> None:
    """Every Python block of the README parses; the live tier runs them."""
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        ast.parse(block)


def test_losses_are_documented_as_a_recipe_takes_them() -> None:
    """The table names every loss with its needs, and the example above it is a valid section."""
    from typing import get_args

    import yaml

    from ollama_bridge.recipe.config import DistillSection
    from ollama_bridge.recipe.losses import Loss

    text = (CHECKOUT / "training" / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Losses")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \|.*?\| ([^|]+) \| [^|]*\|$", section, flags=re.MULTILINE))
    needs = {
        "nothing": "nothing",
        "known": "stored or live",
        "whole": "live",
        "weights": "its weights",
    }
    kinds = get_args(get_args(Loss)[0])
    assert rows.pop("loss") == "needs of the teacher"
    assert rows == {kind.model_fields["loss"].default: needs[kind.needs] for kind in kinds}
    (example,) = re.findall(r"```yaml\n(.*?)```", section, flags=re.DOTALL)
    assert DistillSection.model_validate(yaml.safe_load(example)["distill"]).losses


def test_keys_of_data_are_documented_with_their_defaults() -> None:
    """The table names every key of the section, and its default as YAML spells it."""
    import yaml

    from ollama_bridge.recipe.config import DataSection

    text = (CHECKOUT / "training" / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Your own data")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, flags=re.MULTILINE)
    said = {key: value if value == "required" else yaml.safe_load(value) for key, value in rows}
    assert said == {
        name: "required" if field.is_required() else field.get_default(call_default_factory=True)
        for name, field in DataSection.model_fields.items()
    }


def test_the_recipe_of_ones_own_task_is_valid() -> None:
    """The keys that the example sets, in a copy of the shipped recipe, make one."""
    import yaml

    from ollama_bridge.assets import find_recipe
    from ollama_bridge.recipe.loading import parse_recipe

    text = (CHECKOUT / "training" / "README.md").read_text(encoding="utf-8")
    section = text.partition("### Your own task")[2].partition("\n### ")[0]
    (example,) = re.findall(r"```yaml\n(.*?)```", section, flags=re.DOTALL)
    copy = yaml.safe_load(find_recipe("chat").read_text(encoding="utf-8"))
    for name, value in yaml.safe_load(example).items():
        copy[name] = {**copy.get(name, {}), **value} if isinstance(value, dict) else value
    recipe = parse_recipe(copy, source="the example")
    assert recipe.data.text_cols == ("request",)
    assert recipe.evaluate.reply_tokens == recipe.modelfile.parameters["num_predict"]


def test_exit_codes_of_the_readme_are_those_of_the_errors() -> None:
    """The table of exit codes names every code that an error of ours has."""
    from ollama_bridge import errors

    codes = {
        value.exit_code
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.OllamaBridgeError)
    }
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", README, flags=re.MULTILINE)}
    assert codes <= listed


def test_what_shows_a_claim_is_there() -> None:
    """Every test that docs/packaging.md names is a function of that file."""
    text = (CHECKOUT / "docs" / "packaging.md").read_text(encoding="utf-8")
    file, seen = CHECKOUT, 0
    for path, name in re.findall(r"`([\w/]+\.py)?::(test_\w+)`", text):
        file = CHECKOUT / "tests" / path if path else file
        assert f"def {name}(" in file.read_text(encoding="utf-8"), f"{file.name}::{name}"
        seen += 1
    assert seen > 20
