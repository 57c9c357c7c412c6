"""Losses by chunks: the same sum and gradient as at once, and memory that does not grow."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ollama_bridge.models.compute.head import VocabularyHead
from ollama_bridge.train.losses import chunked
from ollama_bridge.train.losses.chunked import chunked_losses, chunks
from ollama_bridge.train.losses.vocabulary import cross_entropy, jensen_shannon, kl_forward

POSITIONS, WIDTH, VOCABULARY = 37, 8, 50


class Problem:
    """Three losses on random hidden states, of any type."""

    weights = (0.3, 0.5, 2.0)

    def __init__(self, dtype: torch.dtype, *, trained: bool = True, bias: bool = False) -> None:
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        projection = nn.Linear(WIDTH, VOCABULARY, bias=bias, dtype=dtype)
        projection.weight.data = draw(VOCABULARY, WIDTH)
        if bias:
            projection.bias.data = draw(VOCABULARY)
        model = SimpleNamespace(
            config=SimpleNamespace(final_logit_softcapping=5.0),
            get_output_embeddings=lambda: projection,
        )
        self.head = VocabularyHead(model).requires_grad_(trained)
        self.hidden = draw(POSITIONS, WIDTH).requires_grad_()
        self.teacher = 2 * draw(POSITIONS, VOCABULARY)
        self.targets = torch.arange(POSITIONS) % VOCABULARY

    def losses(self, logits: torch.Tensor, part: slice) -> list[torch.Tensor]:
        teacher = self.teacher[part]
        return [
            cross_entropy(logits, self.targets[part]).sum(),
            kl_forward(logits, teacher, temperature=2.0).sum(),
            jensen_shannon(logits, teacher).sum(),
        ]

    def gradients(self) -> list[torch.Tensor]:
        found = [self.hidden.grad, *(value.grad for value in self.head.parameters())]
        return [value for value in found if value is not None]

    def naive(self) -> tuple[torch.Tensor, torch.Tensor]:
        """All logits at once, and torch's own backward pass, from a mean over positions."""
        values = torch.stack(self.losses(self.head(self.hidden), slice(None)))
        total = (values * values.new_tensor(self.weights)).sum()
        (total / POSITIONS).backward()
        return total.detach(), values.detach()

    def by_chunks(self) -> tuple[torch.Tensor, torch.Tensor]:
        total, values = chunked_losses(self.head, self.hidden, self.weights, self.losses)
        (total / POSITIONS).backward()
        assert not values.requires_grad
        return total.detach(), values


def distance(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


@pytest.fixture(autouse=True, params=[16, 1000])
def chunk_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Three chunks, the last one shorter; or one."""
    monkeypatch.setattr(chunked, "_LOGITS_PER_CHUNK", request.param * VOCABULARY)
    return int(request.param)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_naive_form_in_float64(trained: bool, bias: bool) -> None:
    """float32 by chunks: value and every gradient within 1e-5 of float64 at once."""
    exact = Problem(torch.float64, trained=trained, bias=bias)
    found = Problem(torch.float32, trained=trained, bias=bias)
    for ours, theirs in zip(found.by_chunks(), exact.naive(), strict=True):
        assert distance(ours, theirs) < 1e-5
    assert len(found.gradients()) == len(exact.gradients()) == 1 + trained * (1 + bias)
    for ours, theirs in zip(found.gradients(), exact.gradients(), strict=True):
        assert distance(ours, theirs) < 1e-5
    same = Problem(torch.float64, trained=trained, bias=bias)
    same.by_chunks()
    for ours, theirs in zip(same.gradients(), exact.gradients(), strict=True):
        assert distance(ours, theirs) < 1e-14


def test_bfloat16_is_what_autocast_computes() -> None:
    """Under autocast: the products of autocast, and a head's gradient summed in float32."""
    found, whole = Problem(torch.float32), Problem(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = found.by_chunks()
        theirs = whole.naive()
    for mine, at_once in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, at_once, rtol=1e-6)
    for mine, at_once in zip(found.gradients(), whole.gradients(), strict=True):
        assert mine.dtype == torch.float32
        assert (
            distance(mine, at_once.double()) < 1e-2
        )  # their gradients are rounded to 8 bits on both ways


def test_without_gradient_nothing_is_kept() -> None:
    """In evaluation the same value, and no gradient is computed on the way either."""
    problem = Problem(torch.float32)

    def losses(logits: torch.Tensor, part: slice) -> list[torch.Tensor]:
        assert not logits.requires_grad
        return problem.losses(logits, part)

    with torch.no_grad():
        total, _ = chunked_losses(problem.head, problem.hidden, problem.weights, losses)
    assert not total.requires_grad
    assert problem.gradients() == []
    assert torch.allclose(total, problem.by_chunks()[0])


def test_only_what_is_trained_gets_a_gradient() -> None:
    """Hidden states of a frozen body cost nothing; the head still learns."""
    problem = Problem(torch.float32)
    problem.hidden = problem.hidden.detach()
    problem.by_chunks()
    (found,) = problem.gradients()
    assert found.shape == (VOCABULARY, WIDTH)


def test_logits_of_a_chunk_do_not_grow_with_the_text(chunk_size: int) -> None:
    """Ten times the positions are ten times the chunks, none of them larger."""
    problem = Problem(torch.float32)
    seen: list[int] = []

    def losses(logits: torch.Tensor, _: slice) -> list[torch.Tensor]:
        seen.append(logits.shape[0])
        return [logits.sum()]

    chunked_losses(problem.head, torch.zeros(10 * POSITIONS, WIDTH), [1.0], losses)
    assert max(seen) == min(chunk_size, 10 * POSITIONS)
    assert sum(seen) == 10 * POSITIONS


def test_wide_vocabularies_have_short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks cover every position once; their logits take the same memory at any vocabulary."""
    monkeypatch.undo()
    narrow, wide = chunks(1000, 49_152), chunks(1000, 151_936)
    for found in (narrow, wide):
        assert [place for part in found for place in range(1000)[part]] == list(range(1000))
    sizes = [found[0].stop * width for found, width in ((narrow, 49_152), (wide, 151_936))]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)
    assert chunks(0, 49_152) == []


def test_a_second_backward_pass_is_refused() -> None:
    """Gradients are scaled where they are: the second time they would be wrong."""
    problem = Problem(torch.float64)
    total, _ = chunked_losses(problem.head, problem.hidden, problem.weights, problem.losses)
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second"):
        total.backward()


def test_a_head_is_trained_by_nothing_where_nothing_is_supervised() -> None:
    """A part of a batch may have no position: there is no chunk then."""
    problem = Problem(torch.float32)
    total, _ = chunked_losses(
        problem.head, problem.hidden[:0], problem.weights, lambda logits, part: []
    )
    total.backward()
    assert float(total.detach()) == 0
