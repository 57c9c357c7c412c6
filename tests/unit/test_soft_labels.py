"""What is kept of a distribution."""

from __future__ import annotations

import math

import pytest
import torch
from fakes.distributions import logit_pairs, softmax
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_bridge.label_store.labels import SampledTargets, sample_tokens, top_k_with_residual


def dense(soft: SampledTargets, width: int) -> torch.Tensor:
    """Weights by token: (N, V)."""
    return torch.zeros(len(soft), width).scatter_add_(1, soft.ids, soft.weights)


def test_kept_mass_and_residual_make_one() -> None:
    """Nothing of the distribution is lost, however small the rest is."""
    logits = torch.tensor([[30.0, 0.0, -5.0, -6.0], [1.0, 1.0, 1.0, 1.0]])
    kept = top_k_with_residual(logits, top_k=2)
    assert torch.allclose(kept.logprobs.exp().sum(-1) + kept.residual.exp(), torch.ones(2))
    exact = torch.log_softmax(logits.double(), -1)[0, 2:].logsumexp(-1)
    assert kept.residual[0].double() == pytest.approx(exact.item(), rel=1e-5)
    assert top_k_with_residual(logits, top_k=9).residual.tolist() == [float("-inf")] * 2


@settings(max_examples=40, deadline=None)
@given(pair=logit_pairs(), draws=st.sampled_from([1, 7, 50]), offset=st.floats(0, 1 - 1e-9))
def test_every_token_is_drawn_as_often_as_it_should_or_once_more(
    pair: tuple[torch.Tensor, torch.Tensor], draws: int, offset: float
) -> None:
    """Of one position, a token gets floor(draws p) draws or ceil; together they are all draws."""
    logits = pair[0]
    soft = sample_tokens(logits, torch.full((len(logits),), offset).double(), draws=draws)
    assert torch.allclose(soft.weights.sum(-1), torch.ones(len(logits)))
    shares = torch.tensor([softmax(row, 1.0) for row in logits.tolist()])
    counts = dense(soft, logits.shape[1]) * draws
    assert ((counts - draws * shares).abs() < 1 + 1e-4).all()
    entropy = [-math.fsum(p * math.log(p) for p in row if p > 0) for row in shares.tolist()]
    assert soft.entropy.tolist() == pytest.approx(entropy, abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(pair=logit_pairs(), draws=st.sampled_from([1, 7, 50]), seed=st.integers(0, 99))
def test_draws_are_unbiased(pair: tuple[torch.Tensor, torch.Tensor], draws: int, seed: int) -> None:
    """The mean of the weights over many random offsets is the distribution itself."""
    logits, seeds = pair[0][:1], 4000
    offsets = torch.rand(seeds, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mean = dense(sample_tokens(logits.expand(seeds, -1), offsets, draws=draws), logits.shape[1])
    share = torch.softmax(logits, -1).float()
    # A count takes one of two neighbouring values: its deviation is at most 1/2.
    bound = 5 * 0.5 / draws / math.sqrt(seeds)
    assert (mean.mean(0) - share).abs().max() < bound + 1e-6


def test_tokens_without_mass_are_never_drawn() -> None:
    """Not at offset 0 before the first token of some mass, nor behind the last one."""
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]]).repeat(2, 1)
    soft = sample_tokens(logits, torch.tensor([0.0, 1 - 1e-16]).double(), draws=4)
    assert soft.ids.tolist() == [[1, 3], [1, 3]]
    assert soft.weights.sum(-1).tolist() == [1.0, 1.0]
    assert soft.entropy.tolist() == pytest.approx([math.log(2)] * 2)


def test_many_positions_are_drawn_in_parts() -> None:
    """What is worked on at once is not seen in the result."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(150, 30, generator=generator)
    offsets = torch.rand(150, generator=generator, dtype=torch.float64)
    whole = sample_tokens(logits, offsets, draws=20)
    for row in (0, 63, 64, 149):
        alone = sample_tokens(logits[row : row + 1], offsets[row : row + 1], draws=20)
        assert torch.equal(dense(whole, 30)[row], dense(alone, 30)[0])
    assert len(whole) == 150
    assert len(whole[10:30]) == 20
