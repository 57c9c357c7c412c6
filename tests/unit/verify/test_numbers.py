"""Numbers that no answer shows, as a tag carries them and as a daemon shows them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from fakes.serving import small_reference

from ollama_bridge.verify.numbers import check_numbers

NUMBERS = {
    "qwen2.attention.layer_norm_rms_epsilon": 1e-06,
    "qwen2.rope.freq_base": 1000000.0,
    "qwen2.rope.scaling.original_context_length": 128,
    "qwen2.rope.scaling.type": "yarn",
    "qwen2.attention.sliding_window_pattern": [True, False],
}
# Through a float32 and JSON.
SHOWN = {
    **NUMBERS,
    "qwen2.attention.layer_norm_rms_epsilon": 9.999999974752427e-07,
    "qwen2.rope.freq_base": 1000000,
    "qwen2.attention.sliding_window_pattern": [True, False],
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"attention.layer_norm_rms_epsilon": 1e-05}, "1e-05 in the GGUF, config.json makes it"),
        ({"rope.freq_base": 500000.0}, "500000 in the GGUF, config.json makes it 1e+06"),
        (
            {"rope.scaling.original_context_length": 256},
            "256 in the GGUF, config.json makes it 128",
        ),
        ({"rope.scaling.type": None}, "missing in the GGUF, config.json makes it yarn"),
        ({"attention.sliding_window_pattern": [False, True]}, "[False, True] in the GGUF"),
    ],
)
def test_the_first_number_that_is_another_is_named(
    changes: Mapping[str, object], said: str | None
) -> None:
    """With how many more there are."""
    reference = small_reference().model_copy(update={"numbers": NUMBERS})
    changed = {f"qwen2.{key}": value for key, value in changes.items()}
    (check,) = check_numbers(reference, {**SHOWN, **changed})
    assert check.passed == (said is None)
    assert check.numbers == {"compared_keys": 5, "wrong_keys": len(changes)}
    if said is not None:
        assert check.difference is not None
        assert check.difference.startswith(f"{next(iter(changed))}: {said}")


def test_values_of_an_earlier_version_say_nothing_of_numbers() -> None:
    """Then none is taken for missing, nor for compared."""
    assert check_numbers(small_reference(), SHOWN) == ()
