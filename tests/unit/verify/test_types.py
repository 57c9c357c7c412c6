"""What a file says that it is of, against what its tensors are of."""

from __future__ import annotations

import pytest

from ollama_bridge.quantization.file_types import FILE_TYPES
from ollama_bridge.quantization.mixes import base_type
from ollama_bridge.verify.types import check_types


def shown(*types: str) -> dict[str, object]:
    """The daemon's reply, of a file whose matrices are of these types."""
    norm = {"name": "output_norm.weight", "type": "F32", "shape": [64]}
    matrices = [{"name": f"m{i}", "type": type_, "shape": [64, 8]} for i, type_ in enumerate(types)]
    return {"tensors": [norm, *matrices]}


@pytest.mark.parametrize("file_type", FILE_TYPES)
def test_every_type_is_what_it_says(file_type: str) -> None:
    """Its matrices are of its base type, some maybe of a finer one, or of one that is unknown."""
    check = check_types(file_type, shown(base_type(file_type).name, "Q8_0", "F32", "Q99_X"))
    assert check is not None
    assert check.passed, check.difference
    assert check.numbers["type"] == file_type


@pytest.mark.parametrize(
    ("file_type", "types", "said"),
    [
        (
            "q8_0",
            ("Q4_0", "Q4_0", "Q6_K"),
            "it is Q8_0, but 67 % of its matrices' numbers are Q4_0",
        ),
        ("q8_0", ("Q6_K",), "100 % of its matrices' numbers are Q6_K"),
        ("f16", ("Q8_0", "Q8_0", "F16"), "it is F16, but 67 % of its matrices' numbers are Q8_0"),
        ("q4_k_m", ("Q2_K", "Q3_K", "Q4_K"), "% of its matrices' numbers are Q2_K"),
        ("q4_k_m", ("Q3_K", "Q4_K", "Q6_K"), None),
        ("bf16", ("F16",), None),
    ],
)
def test_a_coarser_file_is_named(file_type: str, types: tuple[str, ...], said: str | None) -> None:
    """By what it holds; some coarser matrices are a mix of somebody's."""
    check = check_types(file_type, shown(*types))
    assert check is not None
    assert check.layer == "tensor"
    assert check.passed == (said is None), check.difference
    assert said is None or said in str(check.difference)


def test_a_daemon_that_names_no_tensors() -> None:
    """Nothing is said of their types."""
    assert check_types("q8_0", {}) is None
    assert check_types("q8_0", {"tensors": None}) is None
