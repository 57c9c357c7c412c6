"""Soft labels in a vocabulary with fewer tokens."""

from __future__ import annotations

import torch
from fakes.distributions import stored_kl
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_bridge.label_store.labels import SoftTargets, top_k_with_residual
from ollama_bridge.train.trimmed_targets import into_vocabulary

SIZE = 12


def new_ids(kept: set[int]) -> torch.Tensor:
    ids = torch.full((SIZE,), -1, dtype=torch.int64)
    ids[sorted(kept)] = torch.arange(len(kept))
    return ids


@given(
    st.sets(st.integers(0, SIZE - 1), min_size=1),
    st.integers(1, SIZE),
    st.integers(0, 2**31),
)
@settings(deadline=None)
def test_mass_is_kept_and_places_are_different(kept: set[int], top_k: int, seed: int) -> None:
    """A row sums to 1, kept tokens keep their mass under their new id, no id comes twice."""
    logits = 3 * torch.randn(5, SIZE, generator=torch.Generator().manual_seed(seed))
    probabilities = logits.softmax(-1)
    soft = top_k_with_residual(logits, top_k=top_k)
    found = into_vocabulary(soft, new_ids(kept))
    width = min(top_k, len(kept))
    assert found.ids.shape == found.logprobs.shape == (5, width)
    total = found.logprobs.exp().sum(-1) + found.residual.exp()
    torch.testing.assert_close(total, torch.ones(5))
    order = sorted(kept)
    for row in range(5):
        ids = found.ids[row].tolist()
        assert len(set(ids)) == width
        assert all(0 <= id_ < len(kept) for id_ in ids)
        stored = {int(id_) for id_ in soft.ids[row]} & kept
        massive = {
            order[id_]
            for id_, value in zip(ids, found.logprobs[row].tolist(), strict=True)
            if value > float("-inf")
        }
        assert massive == stored
        for id_, value in zip(ids, found.logprobs[row], strict=True):
            if value > float("-inf"):
                torch.testing.assert_close(value.exp(), probabilities[row, order[id_]])


def test_nothing_lost_is_nothing_changed() -> None:
    """With all tokens kept the labels are the same."""
    soft = top_k_with_residual(torch.randn(4, SIZE), top_k=5)
    found = into_vocabulary(soft, torch.arange(SIZE))
    assert torch.equal(found.ids, soft.ids)
    torch.testing.assert_close(found.logprobs, soft.logprobs)
    torch.testing.assert_close(found.residual, soft.residual)


def test_the_loss_reads_them() -> None:
    """A student that gives the lost mass to its rest has the smallest loss, and a finite one."""
    soft = SoftTargets(
        torch.tensor([[3, 7, 1]]), torch.tensor([[0.5, 0.3, 0.1]]).log(), torch.tensor([0.1]).log()
    )
    found = into_vocabulary(soft, new_ids(set(range(SIZE)) - {7}))
    assert found.ids[0, :2].tolist() == [3, 1]
    torch.testing.assert_close(found.residual, torch.tensor([0.4]).log())
    logits = torch.full((1, SIZE - 1), 1e-9).log()
    logits[0, 3], logits[0, 1], logits[0, 5] = (torch.tensor(p).log() for p in (0.5, 0.1, 0.4))
    logits.requires_grad_()
    loss = stored_kl(logits, found).sum()
    assert abs(loss.item()) < 1e-5
    loss.backward()
    assert torch.isfinite(logits.grad).all()
