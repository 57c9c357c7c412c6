"""From hidden states to logits, in every architecture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fakes.architectures import CASES, build_checkpoint
from fakes.models import build_tiny_model, build_tiny_model_of_twins

from ollama_bridge.models.compute.head import VocabularyHead
from ollama_bridge.models.load import load_model
from ollama_bridge.recipe.config import LoraSection
from ollama_bridge.train.lora import add_lora


@pytest.mark.parametrize("case", sorted(CASES))
def test_logits_are_those_of_the_model(case: str, tmp_path: Path) -> None:
    """The head on the decoder's last state gives the model's own logits, bent or scaled."""
    model = load_model(build_checkpoint(case, tmp_path))
    ids = torch.arange(1, 13)[None]
    with torch.inference_mode():
        hidden = model.base_model(input_ids=ids).last_hidden_state[0]
        found = VocabularyHead(model)(hidden)
        expected = model(input_ids=ids).logits[0]
    assert torch.allclose(found, expected, atol=1e-5)
    assert VocabularyHead(model).vocabulary == expected.shape[1]


@pytest.mark.parametrize("case", sorted(CASES))
def test_logits_of_some_tokens_are_not_rounded(case: str, tmp_path: Path) -> None:
    """The factors are those of the head's own product, its result is float32."""
    model = load_model(build_checkpoint(case, tmp_path)).requires_grad_(False)
    head = VocabularyHead(model)
    hidden = torch.randn(5, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([3, 1, 40])
    assert torch.allclose(head.logits_of(tokens, hidden), head(hidden)[:, tokens], atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, rounded = head.logits_of(tokens, hidden), head(hidden)[:, tokens]
    assert (found.dtype, rounded.dtype) == (torch.float32, torch.bfloat16)
    assert torch.allclose(found, rounded.float(), rtol=2e-2, atol=2e-2)
    model.get_output_embeddings().to(torch.bfloat16)
    expected = VocabularyHead(model.float())(hidden.bfloat16().float())[:, tokens]
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_likeliest_token_is_not_the_first_of_equals() -> None:
    """Where the product is rounded, the largest logits are compared in float32."""
    head = VocabularyHead(build_tiny_model_of_twins())
    hidden = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = head(hidden.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = head(hidden)
        found = head.likeliest(hidden, rounded)
        ids, largest = head.largest(hidden, rounded.float())
    assert (rounded.argmax(-1) != exact.argmax(-1)).sum() > 10
    assert torch.equal(found, exact.argmax(-1))
    assert torch.allclose(largest, exact.gather(-1, ids), atol=1e-4)
    assert torch.equal(head.likeliest(hidden.float(), exact), exact.argmax(-1))


def test_logits_behind_an_adapter_are_taken_as_they_are() -> None:
    """No row of the matrix says what an adapter adds to it."""
    model = build_tiny_model_of_twins()
    add_lora(model, LoraSection(r=2, targets=("lm_head",)), seed=0)
    head = VocabularyHead(model)
    hidden = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(hidden)
        ids, largest = head.largest(hidden, logits)
    assert torch.equal(largest, logits.gather(-1, ids).float())


def test_the_cast_of_what_is_frozen_is_kept() -> None:
    """Until the weight is another; that of a trained one is made at every call."""
    model = build_tiny_model(tied=False)
    head = VocabularyHead(model)
    name, weight = "projection.weight", model.lm_head.weight
    trained = head.cast(name, dtype=torch.bfloat16)
    assert head.cast(name, dtype=torch.bfloat16) is not trained
    weight.requires_grad_(False)
    kept = head.cast(name, dtype=torch.bfloat16)
    assert torch.equal(kept, weight.bfloat16())
    assert head.cast(name, dtype=torch.bfloat16) is kept
    assert VocabularyHead(model).cast(name, dtype=torch.bfloat16) is kept
    weight.mul_(2.0)
    assert torch.equal(head.cast(name, dtype=torch.bfloat16), weight.bfloat16())


@pytest.mark.parametrize("case", ["llama", "gemma2", "granite"])
def test_logits_by_kept_casts_are_those_of_the_head(case: str, tmp_path: Path) -> None:
    """To the bit, in the type of autocast and without."""
    model = load_model(build_checkpoint(case, tmp_path)).requires_grad_(False)
    head = VocabularyHead(model)
    hidden = torch.randn(3, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(head.frozen_logits(hidden), head(hidden))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head.frozen_logits(hidden), head(hidden))
