"""Bounds by type, widened by what rounding alone does, and never without limit."""

from __future__ import annotations

import pytest
from fakes.serving import small_reference

from ollama_bridge.quantization.file_types import FILE_TYPES, PROVEN_NAMES
from ollama_bridge.reference import (
    NOISE_DIFFERENCE_KEY,
    NOISE_MEAN_KL_KEY,
    NOISE_OF,
    NOISE_TYPES,
    Noise,
    ReferenceValues,
)
from ollama_bridge.verify.bounds import bounds_of, recorded_noise


def noisy(name: str, *, difference: float, kl: float) -> ReferenceValues:
    """A checkpoint that rounding to this type moves so far."""
    noise = {name: Noise(max_difference=difference, mean_kl_nats=kl)}
    return small_reference().model_copy(update={"noise": noise})


@pytest.mark.parametrize("gguf_type", FILE_TYPES)
def test_a_steady_checkpoint_has_the_fixed_bounds(gguf_type: str) -> None:
    """Of every type, without noise: a difference where nearly exact, a mean KL for all others."""
    bounds = bounds_of(gguf_type, small_reference())
    assert bounds.max_difference == {"f32": 0.05, "f16": 0.1}.get(gguf_type)
    by_bits = {"q8": 0.01, "q6": 0.02, "q5": 0.05, "q4": 0.15, "q3": 0.5, "q2": 0.5, "bf": 0.002}
    assert bounds.mean_kl_nats == by_bits.get(gguf_type[:2], 0.001)
    assert bounds.same_text == (gguf_type in ("f32", "f16"))


def test_a_fragile_checkpoint_gets_room() -> None:
    """A student that just lost its layers is not refused for what its type does to it."""
    bounds = bounds_of("q8_0", noisy("q8_0", difference=2.4, kl=0.01))
    assert bounds.mean_kl_nats == pytest.approx(0.1)
    assert bounds.answers_kl_nats == pytest.approx(0.03)
    assert not bounds.capped
    bounds = bounds_of("f32", noisy("f16", difference=0.06, kl=0.0))
    assert bounds.max_difference == pytest.approx(0.09)
    assert not bounds.same_text
    # A family is judged by the estimate of its coarsest type.
    assert bounds_of("q5_k_m", noisy("q5_0", difference=2.4, kl=0.015)).mean_kl_nats == 0.15


def test_a_steady_checkpoint_is_held_to_its_own_noise() -> None:
    """Where rounding hardly moves it, the bound of a type says little, and that of answers much."""
    bounds = bounds_of("q8_0", noisy("q8_0", difference=0.1, kl=0.0008))
    assert bounds.mean_kl_nats == 0.01
    assert bounds.answers_kl_nats == pytest.approx(0.0024)
    assert bounds.hold(0.3, 0.009, 0.002)
    assert not bounds.hold(0.3, 0.009, 0.003)
    assert not bounds.hold(0.3, 0.011, 0.002)
    # Numbers below what F16 does to others are no estimate.
    assert bounds_of("q8_0", noisy("q8_0", difference=0.1, kl=0.0)).answers_kl_nats == 0.001


@pytest.mark.parametrize(
    ("gguf_type", "noise", "limit"), [("q8_0", "q8_0", 0.2), ("q4_k_m", "q4_k_s", 0.5)]
)
def test_no_noise_makes_a_proof_meaningless(gguf_type: str, noise: str, limit: float) -> None:
    """However fragile, what a wrong permutation does stays outside; and that is known."""
    bounds = bounds_of(gguf_type, noisy(noise, difference=9.0, kl=2.0))
    assert (bounds.mean_kl_nats, bounds.answers_kl_nats) == (limit, limit)
    assert bounds.capped


def test_random_weights_have_no_proof_in_f16_either() -> None:
    """The largest difference is capped too."""
    bounds = bounds_of("f16", noisy("f16", difference=9.0, kl=0.001))
    assert bounds.max_difference == 1.0
    assert bounds.capped


def test_what_stands_for_a_type_is_estimated() -> None:
    """No type's noise is left to chance."""
    assert set(NOISE_OF) <= set(PROVEN_NAMES.split(", "))
    assert set(NOISE_OF.values()) == set(NOISE_TYPES)


@pytest.mark.parametrize(
    ("mean_kl", "answers", "everywhere"),
    [(0.0001, 0.01, 0.01), (0.03, 0.09, 0.3), (2.0, 0.5, 0.5)],
)
def test_a_mix_of_types_is_held_to_its_own_noise(
    mean_kl: float, answers: float, everywhere: float
) -> None:
    """What was recorded of the file counts, whatever most of its bytes are; within a limit."""
    metadata = {NOISE_DIFFERENCE_KEY: 0.5, NOISE_MEAN_KL_KEY: mean_kl}
    recorded = recorded_noise(metadata)
    assert recorded == Noise(max_difference=0.5, mean_kl_nats=mean_kl)
    for name in FILE_TYPES:
        bounds = bounds_of(name, small_reference(), recorded=recorded)
        assert bounds.answers_kl_nats == pytest.approx(answers)
        assert bounds.mean_kl_nats == pytest.approx(everywhere)
        assert bounds.max_difference is None
        assert bounds.capped == (mean_kl == 2.0)


@pytest.mark.parametrize("value", [None, "0.1", -1.0, float("nan"), float("inf")])
def test_noise_that_is_none_is_not_taken(value: object) -> None:
    """A file without it, or with nonsense, is held to the bounds of its type."""
    assert recorded_noise({NOISE_DIFFERENCE_KEY: 0.1, NOISE_MEAN_KL_KEY: value}) is None
    assert recorded_noise({}) is None
