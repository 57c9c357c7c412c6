"""Distributions as bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_bridge.label_store.formats import TopKFormat, format_of
from ollama_bridge.label_store.info import StoreInfo, row_key
from ollama_bridge.label_store.labels import (
    NO_MASS_LOGPROB,
    SampledTargets,
    SoftTargets,
    has_no_mass,
    top_k_with_residual,
)

TOP_K = StoreInfo(
    method="top_k", vocab_size=50, teacher="t", tokenizer="k", dtype="float32", top_k=4
)
SAMPLED = replace(TOP_K, method="sampled", top_k=0, draws=20, seed=3)


def logits_of(count: int) -> torch.Tensor:
    return 4 * torch.randn(count, 50, generator=torch.Generator().manual_seed(0))


def keys(count: int) -> list[bytes]:
    return [bytes([number]) * 16 for number in range(count)]


def test_likeliest_tokens_come_back() -> None:
    """Ids and residual exactly, log-probabilities with float16's precision; rows in any order."""
    logits, counts = logits_of(7), [2, 1, 4]
    format_ = format_of(TOP_K)
    blocks = format_.blocks(torch.split(logits, 3), keys(3), counts)
    read = format_.read([(blocks[2], 4), (blocks[0], 2)])
    expected = top_k_with_residual(logits[[3, 4, 5, 6, 0, 1]], top_k=4)
    assert isinstance(read, SoftTargets)
    assert torch.equal(read.ids, expected.ids)
    assert torch.allclose(read.logprobs, expected.logprobs, rtol=1e-3, atol=1e-6)
    assert torch.equal(read.residual, expected.residual)


def test_drawn_tokens_come_back() -> None:
    """Ids and weights exactly; positions and rows with different numbers of tokens keep theirs."""
    logits, counts = logits_of(7), [2, 0, 5]
    logits[0] *= 100  # one token
    format_ = format_of(SAMPLED)
    blocks = format_.blocks(torch.split(logits, 3), keys(3), counts)
    read = format_.read([(blocks[2], 5), (blocks[1], 0), (blocks[0], 2)])
    assert isinstance(read, SampledTargets)
    assert len(read) == 7
    assert torch.allclose(read.weights.sum(-1), torch.ones(7))
    assert torch.allclose(read.weights * 20, (read.weights * 20).round(), atol=1e-5)
    entropy = torch.distributions.Categorical(logits=logits[[2, 3, 4, 5, 6, 0, 1]]).entropy()
    assert torch.allclose(read.entropy, entropy, rtol=1e-3, atol=1e-4)
    assert read.weights[5].tolist() == [1.0, *[0.0] * (read.ids.shape[1] - 1)]
    assert int(read.ids[5, 0]) == int(logits[0].argmax())


def test_draws_of_a_row_depend_on_seed_and_row_alone() -> None:
    """Beside other rows, in other parts, the same is drawn; with another seed or row it is not."""
    logits = logits_of(30) / 8
    format_ = format_of(SAMPLED)
    alone = format_.blocks([logits[10:]], [b"row" + bytes(13)], [20])
    beside = format_.blocks(
        torch.split(logits, 7), [b"other" + bytes(11), b"row" + bytes(13)], [10, 20]
    )
    assert beside[1] == alone[0]
    assert format_.blocks([logits[10:]], keys(1), [20]) != alone
    again = format_of(replace(SAMPLED, seed=4))
    assert again.blocks([logits[10:]], [b"row" + bytes(13)], [20]) != alone


@settings(max_examples=20, deadline=None)
@given(
    vocab_size=st.sampled_from([20, 2**16, 2**16 + 1, 262_144]),
    method=st.sampled_from(["top_k", "sampled"]),
)
def test_ids_of_any_vocabulary_survive(vocab_size: int, method: str) -> None:
    """Two bytes below 65,536 tokens and three above hold every id."""
    info = replace(TOP_K if method == "top_k" else SAMPLED, vocab_size=vocab_size)
    logits = torch.full((1, vocab_size), -100.0)
    likely = torch.tensor([0, vocab_size // 2, vocab_size - 2, vocab_size - 1])
    logits[0, likely] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    format_ = format_of(info)
    read = format_.read([(format_.blocks([logits], keys(1), [1])[0], 1)])
    assert isinstance(read, SoftTargets | SampledTargets)
    assert sorted(read.ids[0].tolist()) == likely.tolist()


@pytest.mark.parametrize(("vocab_size", "size"), [(49_152, 84), (151_936, 104)])
def test_a_position_takes_few_bytes(vocab_size: int, size: int) -> None:
    """Twenty tokens and the rest fit into 120 bytes."""
    info = replace(TOP_K, top_k=20, vocab_size=vocab_size)
    blocks = format_of(info).blocks([torch.zeros(3, vocab_size)], keys(1), [3])
    assert len(blocks[0]) == 3 * size <= 3 * 120


def test_rows_are_known_by_content() -> None:
    """Token ids, and which of them are predicted, make the key; a tail of padding would too."""
    ids, mask = torch.arange(9).numpy(), (torch.arange(9) > 5).numpy()
    same = row_key(ids.astype("int32"), mask)
    assert row_key(ids.astype("int64"), mask) == same
    assert len({same, row_key(ids + 1, mask), row_key(ids, ~mask), row_key(ids[:8], mask[:8])}) == 4


def test_what_has_no_mass_is_still_known_when_it_comes_back() -> None:
    """Certain and trimmed labels have such tokens; one that is merely unlikely is none."""
    logprobs = torch.tensor([[0.0, -30.0, -9000.0, float("-inf")]])
    found = SoftTargets(torch.arange(4)[None], logprobs, torch.tensor([float("-inf")]))
    (block,) = TopKFormat(TOP_K).pack(found, [1])
    read = TopKFormat(TOP_K).read([(block, 1)])
    assert has_no_mass(read.logprobs).tolist() == [[False, False, False, True]]
    assert float(read.logprobs[0, 3]) == NO_MASS_LOGPROB


def test_stores_keep_their_names() -> None:
    """Labels over the teacher's own ids are found where earlier versions put them."""
    info = StoreInfo("top_k", 384, "teacher", "tokenizer", "float32", 5)
    assert info.store_id == "409e55dcd6b1a9d3"
    assert "carried" not in info.to_json()
    assert replace(info, carried="mapped/1").store_id != info.store_id
