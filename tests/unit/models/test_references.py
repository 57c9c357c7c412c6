"""Model references: every form, and the ambiguous ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from ollama_bridge.errors import ModelReferenceError
from ollama_bridge.models.sources.references import parse_reference


@pytest.mark.parametrize(
    ("text", "kind", "value", "revision"),
    [
        ("hf:org/name", "hf", "org/name", None),
        ("hf:gpt2", "hf", "gpt2", None),
        ("hf:org/name@main", "hf", "org/name", "main"),
        ("hf:org/name@refs/pr/1", "hf", "org/name", "refs/pr/1"),
        ("ollama:smollm2:135m", "ollama", "smollm2:135m", None),
        ("ollama:user/model", "ollama", "user/model", None),
        ("ollama:localhost:5000/user/model:tag", "ollama", "localhost:5000/user/model:tag", None),
        ("model.gguf", "gguf", "model.gguf", None),
        ("/a/b c/model.gguf", "gguf", "/a/b c/model.gguf", None),
        ("./folder", "folder", "./folder", None),
        ("../folder", "folder", "../folder", None),
        ("/folder", "folder", "/folder", None),
        ("~/folder", "folder", "~/folder", None),
        (".", "folder", ".", None),
        (" ./folder\n", "folder", "./folder", None),
    ],
)
def test_every_form_is_read(text: str, kind: str, value: str, revision: str | None) -> None:
    """Each form of the grammar gives its kind and what follows the prefix."""
    reference = parse_reference(text)
    assert (reference.kind, reference.value, reference.revision) == (kind, value, revision)


def test_a_reference_prints_as_it_was_written() -> None:
    """str() of a reference reads back as the same reference."""
    for text in ("hf:org/name@v1", "hf:org/name", "ollama:a:b", "./x", "x.gguf"):
        assert str(parse_reference(text)) == text


def test_a_bare_word_is_refused_and_offers_both_readings() -> None:
    """A word that is no path and has no prefix could be a tag or a folder: both are offered."""
    with pytest.raises(ModelReferenceError) as caught:
        parse_reference("smollm2:135m")
    assert "ollama:smollm2:135m" in str(caught.value.hint)
    assert "./smollm2:135m" in str(caught.value.hint)


def test_a_bare_name_with_a_slash_offers_the_hub_too() -> None:
    """org/name is also offered as a repository of the hub."""
    with pytest.raises(ModelReferenceError) as caught:
        parse_reference("org/name")
    assert "hf:org/name" in str(caught.value.hint)


def test_a_folder_that_exists_needs_no_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare word that is a folder here is that folder."""
    (tmp_path / "student").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse_reference("student").kind == "folder"


@pytest.mark.parametrize(
    "text", ["", "  ", "hf:", "hf:a/b/c", "hf:a b", "hf:a/b@", "ollama:", "ollama:a b"]
)
def test_malformed_references_are_refused(text: str) -> None:
    """A prefix with something unreadable behind it is an error with the right form."""
    with pytest.raises(ModelReferenceError) as caught:
        parse_reference(text)
    assert caught.value.hint


def test_home_is_expanded() -> None:
    """~ in a path is the home folder."""
    assert parse_reference("~/x.gguf").path == Path.home() / "x.gguf"
