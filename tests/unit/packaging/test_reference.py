"""The file of reference values: read back equal, or refused with the field's name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes.serving import small_reference

from ollama_bridge.errors import ArtifactError
from ollama_bridge.reference import ReferenceValues


def test_is_read_back_equal(tmp_path: Path) -> None:
    """Write then read is the identity."""
    reference = small_reference()
    reference.write(tmp_path / "reference.json")
    assert ReferenceValues.read(tmp_path / "reference.json") == reference


def test_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    """A checkpoint without reference values names the command that makes them."""
    with pytest.raises(ArtifactError, match="is missing") as caught:
        ReferenceValues.read(tmp_path / "reference.json")
    assert "package" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"conversations": []}, "conversations"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_wrong_field_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    """A value out of range, an unknown field and another schema are refused by name."""
    path = tmp_path / "reference.json"
    data = json.loads(small_reference().model_dump_json()) | change
    path.write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match=message):
        ReferenceValues.read(path)


def test_damaged_file_is_refused(tmp_path: Path) -> None:
    """Half a file is an error, not an empty reference."""
    path = tmp_path / "reference.json"
    path.write_text(small_reference().model_dump_json()[:200])
    with pytest.raises(ArtifactError, match=r"reference\.json"):
        ReferenceValues.read(path)


def test_answers_must_belong_to_a_conversation() -> None:
    """A scored answer names a conversation that is there."""
    reference = small_reference()
    data = json.loads(reference.model_dump_json())
    data["answers"][0]["conversation"] = "nowhere"
    with pytest.raises(ValueError, match="nowhere"):
        ReferenceValues.model_validate(data)
