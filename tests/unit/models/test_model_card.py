"""The model card's front matter in the GGUF."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fakes.ggufs import metadata_of

from ollama_bridge.conversion import convert
from ollama_bridge.models.settings.model_card import card_entries
from ollama_bridge.models.sources.resolve import resolve_model

CARD = """---
license: other
license_name: some-licence
license_link: https://example.org/licence
language: [en, de]
tags: [chat]
pipeline_tag: text-generation
base_model: some-org/some-base
datasets:
- some-org/some-data
- other-data
---
# My model
"""


def test_what_the_card_says_is_in_the_file(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Licence, tags, languages, base model and data sets of a checkpoint made elsewhere."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    (folder / "README.md").write_text(CARD)
    checkpoint = resolve_model(str(folder), cache_dir=tmp_path / "cache")
    keys = metadata_of(convert(checkpoint, type="f32", out_dir=tmp_path / "out").gguf_path)
    assert keys["general.license"] == "other"
    assert keys["general.license.name"] == "some-licence"
    assert keys["general.license.link"] == "https://example.org/licence"
    assert keys["general.languages"] == ["en", "de"]
    assert keys["general.tags"] == ["chat", "text-generation"]
    assert keys["general.base_model.count"] == 1
    assert keys["general.base_model.0.name"] == "some-base"
    assert keys["general.base_model.0.organization"] == "some-org"
    assert keys["general.dataset.count"] == 2
    assert keys["general.dataset.1.name"] == "other-data"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# No front matter",
        "---\n[\n---",
        "---\n- a list\n---",
        "---\nlicense: [1]\n---",
        "---\nlicense: mit\ndate: 2024-02-30\n---",
        f"---\ntags: {'[' * 5000}\n---",
    ],
)
def test_a_card_that_says_nothing_stops_nothing(text: str, tmp_path: Path) -> None:
    """People write cards by hand."""
    (tmp_path / "README.md").write_text(text)
    assert card_entries(tmp_path) == []


@pytest.mark.parametrize("folder", ["/home/somebody/base", "./base", "../base", "."])
def test_a_folder_of_this_machine_is_no_base_model(folder: str, tmp_path: Path) -> None:
    """What peft writes of a base that is a folder stays here."""
    card = f"---\nbase_model: {folder}\ntags: ['base_model:adapter:{folder}']\n---"
    (tmp_path / "README.md").write_text(card)
    assert card_entries(tmp_path) == []


def test_no_card_is_no_problem(tmp_path: Path) -> None:
    """Most folders have none."""
    assert card_entries(tmp_path) == []
