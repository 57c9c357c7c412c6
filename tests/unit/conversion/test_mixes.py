"""Which type each tensor gets, held against what llama.cpp's own tool chose."""

from __future__ import annotations

import json

import pytest
from fakes.mixes import MIXES, QUANTIZED, TABLE, compact, shapes_of
from gguf import GGMLQuantizationType

from ollama_bridge.errors import ConfigError
from ollama_bridge.quantization.file_types import ALL_NAMES, FILE_TYPES, NUMBERS, name_of, parse
from ollama_bridge.quantization.mixes import ModelShape, fitting, plan_types

Q = GGMLQuantizationType


@pytest.mark.parametrize("case", MIXES)
def test_every_tensor_has_the_type_that_llama_quantize_gives_it(case: str) -> None:
    """All mixes on all shapes: layers, fused matrices, tied output, odd rows, few value heads."""
    model, shapes = shapes_of(case)
    expected = json.loads(TABLE.read_text())[case]
    assert set(expected) == set(QUANTIZED)
    for file_type, lines in expected.items():
        plan = plan_types(file_type, shapes, model)
        matrices = {name: type_.name for name, type_ in plan.items() if type_ != Q.F32}
        assert compact(matrices) == lines, file_type


def test_vectors_and_norms_are_never_quantized() -> None:
    """Vectors and norms stay F32 in every file type."""
    shapes = {"blk.0.attn_norm.weight": (64,), "blk.0.attn_q.bias": (64,), "x_norm.weight": (2, 64)}
    for file_type in FILE_TYPES:
        plan = plan_types(file_type, shapes, ModelShape("llama", 1, 1, 1))
        assert set(plan.values()) == {Q.F32}


@pytest.mark.parametrize(("file_type", "other"), [("q4_0", Q.Q4_1), ("q5_0", Q.Q5_1)])
def test_importance_changes_the_first_layers_of_two_mixes(file_type: str, other: Q) -> None:
    """With an importance matrix the first eighth of ffn_down has a minimum too, as llama.cpp's."""
    shapes = {f"blk.{layer}.ffn_down.weight": (256, 256) for layer in range(16)}
    model = ModelShape("llama", 16, 4, 4)
    plan = plan_types(file_type, shapes, model, with_importance=True)
    assert list(plan.values()) == [other] * 2 + [Q[file_type.upper()]] * 14
    assert set(plan_types(file_type, shapes, model).values()) == {Q[file_type.upper()]}


@pytest.mark.parametrize(
    ("wanted", "columns", "found"),
    [
        (Q.Q4_K, 512, Q.Q4_K),
        (Q.Q4_K, 96, Q.Q5_0),
        (Q.Q6_K, 96, Q.Q8_0),
        (Q.Q5_K, 48, Q.F16),
        (Q.Q8_0, 48, Q.F16),
    ],
)
def test_rows_that_do_not_divide_get_a_stand_in(wanted: Q, columns: int, found: Q) -> None:
    """The next best type of smaller blocks, and F16 where none divides."""
    assert fitting(wanted, columns) == found


def test_names_and_numbers_belong_together() -> None:
    """Every type has a number of its own; what is no type of ours has no name."""
    assert {name_of(number) for number in NUMBERS.values()} == set(FILE_TYPES)
    assert name_of(19) is None
    assert name_of(True) is None
    assert name_of(None) is None


def test_an_unknown_type_is_refused_with_those_that_exist() -> None:
    """Case does not matter; what cannot be written is an error that lists what can."""
    assert parse("Q4_K_M") == "q4_k_m"
    with pytest.raises(ConfigError, match="iq2_xs") as caught:
        parse("iq2_xs")
    assert caught.value.hint == f"use one of {ALL_NAMES}"


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("q4km", "q4_k_m"),
        ("Q4-K-M", "q4_k_m"),
        ("q8", "q8_0"),
        ("q4_k", "q4_k_m or q4_k_s"),
        ("fp16", "f16"),
    ],
)
def test_what_was_meant_is_told(wrong: str, meant: str) -> None:
    """Such as it is written elsewhere; of several that begin so, all."""
    with pytest.raises(ConfigError, match=wrong) as caught:
        parse(wrong)
    assert caught.value.hint == f"did you mean {meant}?"
