"""Room for the texts of a checkpoint."""

from __future__ import annotations

import pytest
from fakes.serving import small_reference

from ollama_bridge.errors import ParityError
from ollama_bridge.verify.context import check_context, longest_probe

REFERENCE = small_reference().model_copy(update={"context_length": 512})


def metadata(length: object) -> dict[str, object]:
    """Of a Llama."""
    return {"general.architecture": "llama", "llama.context_length": length}


@pytest.mark.parametrize(
    ("length", "passed"), [(512, True), (8192, True), (None, True), (511, False), (64, False)]
)
def test_a_context_that_is_cut_is_named(length: object, *, passed: bool) -> None:
    """No probe is that long, so that all answers are right."""
    check = check_context("m:latest", REFERENCE, metadata(length))
    assert check.layer == "tensor"
    assert check.passed == passed
    said = f"llama.context_length is {length} in the GGUF, the checkpoint was made for 512 tokens"
    assert passed or check.difference == said


def test_a_context_without_room_for_the_probes_is_refused() -> None:
    """Instead of an error that asks for a shorter prompt."""
    length = longest_probe(REFERENCE)
    with pytest.raises(
        ParityError, match=f"llama.context_length is {length} in the GGUF"
    ) as caught:
        check_context("m:latest", REFERENCE, metadata(length))
    assert caught.value.layer == "tensor"
    assert "package" in (caught.value.hint or "")
