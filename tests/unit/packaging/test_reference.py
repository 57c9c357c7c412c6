"""The file of reference values: read back equal, or refused with the field's name."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest
from fakes.serving import small_reference

from ollama_bridge.errors import ArtifactError
from ollama_bridge.reference import ReferenceValues, Turn


def test_is_read_back_equal(tmp_path: Path) -> None:
    """Write then read is the identity."""
    reference = small_reference()
    reference.write(tmp_path / "reference.json")
    assert ReferenceValues.read(tmp_path / "reference.json") == reference


def test_values_without_numbers_are_written_as_they_were(tmp_path: Path) -> None:
    """The bytes of a GGUF that is made again of them are those of the one that was made."""
    reference = small_reference()
    assert "numbers" not in json.loads(reference.to_json())
    numbers = {"llama.rope.freq_base": 10000.0, "llama.block_count": 2, "a.pattern": [True, False]}
    reference.model_copy(update={"numbers": numbers}).write(tmp_path / "reference.json")
    assert ReferenceValues.read(tmp_path / "reference.json").numbers == numbers


def test_a_date_that_somebody_says_is_no_date_of_the_chat_template() -> None:
    """On another day the template writes another one, and what is said is what it was."""
    reference = small_reference(system="As of 2026.").model_copy(
        update={"dates": {"%Y": "2026", "%d %B": "28 November", "%d": "28"}}
    )
    plain = reference.conversation("plain")
    asked = plain.model_copy(
        update={
            "turns": (Turn(role="user", content="28 - 2026-11-24"),),
            "rendered": "28 November 2026 (28)\nAs of 2026.\n28 - 2026-11-24",
        }
    )
    said = "As of 2026.\n28 - 2026-11-24"
    assert reference.rendered_on(asked, date(2031, 2, 3)) == f"03 February 2031 (03)\n{said}"
    assert reference.rendered_on(asked, date(2026, 11, 28)) == asked.rendered


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
