"""Rotary positions as one function: transformers' values and gradients."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from fakes.architectures import CASES, build_checkpoint
from transformers.models.llama import modeling_llama
from transformers.models.phi3 import modeling_phi3

from ollama_bridge.models.compute.fused_rotation import fused_rotation, rotated
from ollama_bridge.models.load import load_model

TOKENS, WIDTH = 7, 16


def angles(reach: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines (1, N, R) that are not alike in both halves, as no model has them."""
    drawn = 6 * torch.rand(1, TOKENS, reach, generator=torch.Generator().manual_seed(0))
    return drawn.double().cos(), drawn.double().sin()


@pytest.mark.parametrize("reach", [WIDTH, WIDTH // 2])
def test_values_and_gradients_are_those_of_transformers(reach: int) -> None:
    """Also where a head is turned in part, as Phi-4-mini's are."""
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(1, 4, TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    key = torch.randn(1, 2, TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    cos, sin = angles(reach)
    found = []
    for turn in (
        modeling_phi3.apply_rotary_pos_emb,
        lambda q, k, c, s: (rotated(q, c.unsqueeze(1), s.unsqueeze(1)),
                            rotated(k, c.unsqueeze(1), s.unsqueeze(1))),
    ):  # fmt: skip
        states = [query.clone().requires_grad_(), key.clone().requires_grad_()]
        turned = turn(*states, cos, sin)
        torch.stack([(one * one.sin()).sum() for one in turned]).sum().backward()
        found.append([*turned, *(one.grad for one in states)])
    for theirs, mine in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_autocast_rounds_once_and_to_its_type() -> None:
    """The float32 result, rounded; gradients come back in the type of what was given."""
    states = torch.randn(1, 4, TOKENS, WIDTH, generator=torch.Generator().manual_seed(2))
    cos, sin = (one.float().unsqueeze(1) for one in angles(WIDTH))
    given = states.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        turned = rotated(given, cos, sin)
    turned.sum().backward()
    assert torch.equal(turned, rotated(given.detach().float(), cos, sin).bfloat16())
    assert given.grad is not None
    assert given.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("case", CASES)
def test_stands_in_for_every_architecture_and_goes_away(case: str, tmp_path: Path) -> None:
    """Else a family that transformers changes would train by the slow steps, unsaid."""
    model = load_model(build_checkpoint(case, tmp_path / "checkpoint"))
    place = sys.modules[type(model).__module__]
    before = place.apply_rotary_pos_emb
    with fused_rotation(model):
        assert place.apply_rotary_pos_emb is not before
    assert place.apply_rotary_pos_emb is before


def test_the_function_of_a_model_that_is_left_alone_stays() -> None:
    """One without attention of a known class."""
    before = modeling_llama.apply_rotary_pos_emb
    with fused_rotation(torch.nn.Linear(2, 2)):
        assert modeling_llama.apply_rotary_pos_emb is before
