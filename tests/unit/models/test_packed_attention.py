"""Texts in one row, without padding: the same function in every architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.architectures import CASES, build_checkpoint

from ollama_bridge.encoding.batches import Batch, Batches
from ollama_bridge.encoding.encode import EncodedExample
from ollama_bridge.models.compute.forward import attention, run_decoder, training_attention
from ollama_bridge.models.compute.fused_norms import fused_norms
from ollama_bridge.models.compute.fused_rotation import fused_rotation
from ollama_bridge.models.compute.packed_attention import PACKED_ATTENTION, Layout
from ollama_bridge.models.load import load_model

PREFIX = 9
# Their windows are narrower than some texts, or their scores are capped.
NOT_PLAIN = ("gemma2",)


def batch_of_texts(*, share_prefix: bool) -> Batch:
    """Five texts of different lengths that begin alike."""
    chooser = np.random.default_rng(0)
    first = chooser.integers(5, 380, PREFIX)
    examples = []
    for row, length in enumerate((4, 5, 5, 11, 4)):
        ids = np.concatenate([first, chooser.integers(5, 380, length)]).astype(np.int32)
        supervised = np.arange(len(ids)) >= len(ids) - 2
        examples.append(EncodedExample(row, ids, supervised, turns=1, ended_turns=1))
    batches = Batches(examples, batch_tokens=10_000, pad_id=2, share_prefix=share_prefix)
    (batch,) = batches.in_order()
    return batch


def states_and_gradients(model: Any, batch: Batch) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Of a sum that every state on a real token has a part in."""
    model.zero_grad()
    states = run_decoder(model, batch, all_layers=True)
    found = [states.supervised, *states.layers]
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(one.shape, generator=generator, dtype=one.dtype) for one in found]
    parts = [(one * weight).sum() for one, weight in zip(found, weights, strict=True)]
    torch.stack(parts).sum().backward()
    gradients = [one.grad.clone() for one in model.parameters() if one.grad is not None]
    return [one.detach() for one in found], gradients


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_states_and_gradients_are_those_of_padded_rows(
    case: str, tmp_path: Path, share_prefix: bool
) -> None:
    """Attention in one row, fused norms and rotation give what transformers gives on rows."""
    model = load_model(build_checkpoint(case, tmp_path / "checkpoint")).double().train()
    batch = batch_of_texts(share_prefix=share_prefix)
    assert len(batch.prefix_ids) == PREFIX * share_prefix
    with attention(model, "eager"):
        expected = states_and_gradients(model, batch)
    with training_attention(model, longest=20), fused_norms(model), fused_rotation(model):
        used = model.config._attn_implementation
        found = states_and_gradients(model, batch)
    assert used == ("eager" if case in NOT_PLAIN else PACKED_ATTENTION)
    for mine, theirs in zip((*found[0], *found[1]), (*expected[0], *expected[1]), strict=True):
        # transformers takes the softmax in float32.
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))


def test_the_row_holds_every_real_token_once() -> None:
    """The prefix, then each text behind it, one after another."""
    batch = batch_of_texts(share_prefix=True)
    layout = Layout.of(batch)
    row = layout.row(batch.prefix_ids, batch.input_ids)
    mask = batch.attention_mask[:, PREFIX:].bool()
    assert torch.equal(row, torch.cat([batch.prefix_ids, batch.input_ids[mask]]))
    assert torch.equal(row[layout.places[mask]], batch.input_ids[mask])


def test_bfloat16_is_as_near_as_rows_are(tmp_path: Path) -> None:
    """Under autocast the gradient is no farther from the exact one than transformers' own."""
    model = load_model(build_checkpoint("llama", tmp_path / "checkpoint")).train()
    batch = batch_of_texts(share_prefix=True)
    _, exact = states_and_gradients(model, batch)
    errors = []
    for implementation in ("eager", PACKED_ATTENTION):
        with (
            attention(model, implementation),
            fused_norms(model),
            torch.autocast("cpu", dtype=torch.bfloat16),
        ):
            _, found = states_and_gradients(model, batch)
        pairs = zip(found, exact, strict=True)
        errors.append(max(float((one - two).norm() / two.norm()) for one, two in pairs))
    assert errors[1] < 1.2 * errors[0]


def test_a_cache_is_read_as_before(tmp_path: Path) -> None:
    """Generation, which knows nothing of rows, goes on as with plain attention."""
    model: Any = load_model(build_checkpoint("llama", tmp_path / "checkpoint"))
    ids = torch.arange(10, 20)[None]
    with attention(model, "eager"):
        expected = model.generate(ids, max_new_tokens=5, do_sample=False)
    with training_attention(model, longest=20):
        found = model.generate(ids, max_new_tokens=5, do_sample=False)
    assert torch.equal(found, expected)


def test_a_text_longer_than_the_window_is_not_in_the_row(tmp_path: Path) -> None:
    """Whatever the longest training text was: there the window hides something."""
    model = load_model(build_checkpoint("mistral", tmp_path / "checkpoint")).double()
    model.config.sliding_window = 8
    batch = batch_of_texts(share_prefix=False)
    with attention(model, "eager"):
        expected = states_and_gradients(model, batch)
    with training_attention(model, longest=8):
        assert model.config._attn_implementation == PACKED_ATTENTION
        found = states_and_gradients(model, batch)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("case", "longest"), [("gemma2", 20), ("gemma3", 40), ("llama", 4096)])
def test_other_attention_is_left_alone(case: str, longest: int, tmp_path: Path) -> None:
    """Capped scores, windows that hide something, and rows that are long."""
    model = load_model(build_checkpoint(case, tmp_path / "checkpoint"))
    with training_attention(model, longest=longest):
        assert model.config._attn_implementation != PACKED_ATTENTION
