"""Bounds by type, widened by what rounding alone does, and never without limit."""

from __future__ import annotations

import pytest
from fakes.serving import small_reference

from ollama_bridge.reference import Noise, ReferenceValues
from ollama_bridge.verify.bounds import GGUF_TYPES, bounds_of


def noisy(name: str, *, difference: float, kl: float) -> ReferenceValues:
    """A checkpoint that rounding to this type moves so far."""
    noise = {name: Noise(max_difference=difference, mean_kl_nats=kl)}
    return small_reference().model_copy(update={"noise": noise})


@pytest.mark.parametrize("gguf_type", GGUF_TYPES)
def test_a_steady_checkpoint_has_the_fixed_bounds(gguf_type: str) -> None:
    """Without noise: 0.05 nats where numbers are nearly exact, 0.01 mean KL for Q8_0."""
    bounds = bounds_of(gguf_type, small_reference())
    assert bounds.max_difference == (0.05 if gguf_type in ("f32", "f16") else None)
    assert bounds.mean_kl_nats == {"q8_0": 0.01, "bf16": 0.002}.get(gguf_type, 0.001)
    assert bounds.same_text == (gguf_type in ("f32", "f16"))


def test_a_fragile_checkpoint_gets_room() -> None:
    """A student that just lost its layers is not refused for what its type does to it."""
    assert bounds_of("q8_0", noisy("q8_0", difference=2.4, kl=0.04)).mean_kl_nats == 0.08
    bounds = bounds_of("f32", noisy("f16", difference=0.06, kl=0.0))
    assert bounds.max_difference == pytest.approx(0.09)
    assert not bounds.same_text


def test_no_noise_makes_a_proof_meaningless() -> None:
    """However fragile, what a wrong permutation does stays outside."""
    assert bounds_of("q8_0", noisy("q8_0", difference=9.0, kl=2.0)).mean_kl_nats == 0.2
    assert bounds_of("f16", noisy("f16", difference=9.0, kl=2.0)).max_difference == 1.0
