"""Answers that a model writes: drawn from its distribution, reproducible, stopped at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.architectures import build_checkpoint
from fakes.json_files import change_json
from fakes.models import build_tiny_model, build_tiny_tokenizer
from fakes.trainable import sentiment_examples
from transformers import LlamaForCausalLM

from ollama_bridge.encoding.encode import EncodedExample, encode_split
from ollama_bridge.models.compute.precision import Precision
from ollama_bridge.models.load import load_model
from ollama_bridge.train import rollouts
from ollama_bridge.train.rollouts import Rollout, Sampling, draw, prompt_of, roll_out

CPU = Precision(torch.device("cpu"), torch.float32, 1)
# Half of all tokens end an answer, so that a random model's answers have different lengths.
SAMPLING = Sampling(12, 0.8, frozenset(range(0, 384, 6)), 384)


@pytest.fixture(scope="module")
def examples() -> tuple[EncodedExample, ...]:
    return encode_split(
        sentiment_examples(7, name="train"), build_tiny_tokenizer(), max_length=512, name="train"
    ).examples


@pytest.fixture
def model() -> LlamaForCausalLM:
    return build_tiny_model()


def write(
    model: LlamaForCausalLM,
    examples: Sequence[EncodedExample],
    numbers: Sequence[int] | None = None,
    *,
    precision: Precision = CPU,
    sampling: Sampling = SAMPLING,
) -> list[Rollout]:
    numbers = range(len(examples)) if numbers is None else numbers
    return roll_out(model, examples, sampling, numbers=numbers, seed=(5, 1), precision=precision)


def naive(model: LlamaForCausalLM, example: EncodedExample, number: int) -> Rollout:
    """One answer, the whole text computed anew for every token."""
    uniforms = np.random.default_rng((5, 1, number)).random(12)
    ids: list[int] = prompt_of(example).tolist()
    answer: list[int] = []
    for uniform in uniforms.tolist():
        with torch.no_grad():
            logits = model(torch.tensor([[*ids, *answer]])).logits[0, -1].double() / 0.8
        cumulative = torch.softmax(logits, dim=-1).cumsum(0)
        answer.append(int((cumulative <= uniform).sum()))
        if answer[-1] in SAMPLING.ends:
            return Rollout(tuple(answer), ended=True)
    return Rollout(tuple(answer), ended=False)


@pytest.mark.parametrize("rows_at_once", [2, 64])
def test_batches_write_what_each_prompt_alone_would_get(
    model: LlamaForCausalLM,
    examples: tuple[EncodedExample, ...],
    rows_at_once: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Padding, the shared prefix, the cache and rows that leave change nothing."""
    monkeypatch.setattr(rollouts, "ROWS_AT_ONCE", rows_at_once)
    expected = [naive(model, example, number) for number, example in enumerate(examples)]
    assert len({len(rollout.answer) for rollout in expected}) >= 4
    assert write(model, examples) == expected


@pytest.mark.parametrize(
    ("case", "window"),
    [("gemma2", 8), ("gemma2", 512), ("gemma3", 8), ("mistral", 8), ("qwen3", 0), ("smollm3", 0)],
)
def test_every_attention_writes_what_each_prompt_alone_would_get(
    case: str, window: int, examples: tuple[EncodedExample, ...], tmp_path: Path
) -> None:
    """Windows shorter and longer than the texts, layers without positions, norms of the heads."""
    folder = build_checkpoint(case, tmp_path / case)
    if window:
        change_json(folder / "config.json", sliding_window=window)
    model: Any = load_model(folder)
    expected = [naive(model, example, number) for number, example in enumerate(examples)]
    assert len({len(rollout.answer) for rollout in expected}) >= 2
    assert write(model, examples) == expected


def test_prompts_without_a_common_beginning(
    model: LlamaForCausalLM, examples: tuple[EncodedExample, ...]
) -> None:
    """Nothing is split off where there is nothing in common, nor of a prompt all of it."""
    first, longest = examples[0], max(examples, key=lambda one: len(one.input_ids))
    assert len(prompt_of(longest)) > len(prompt_of(first))
    ids = longest.input_ids.copy()
    ids[0] = 7
    other = EncodedExample(first.row, ids, longest.supervised, 1, 1)
    for pair in ((first, other), (first, first)):
        assert write(model, pair) == [naive(model, one, place) for place, one in enumerate(pair)]


def test_draws_do_not_depend_on_the_company(
    model: LlamaForCausalLM, examples: tuple[EncodedExample, ...]
) -> None:
    """An answer is that of its number, whoever writes the others: another process, say."""
    whole = write(model, examples)
    for part in (slice(0, None, 2), slice(1, None, 2)):
        assert write(model, examples[part], range(len(examples))[part]) == whole[part]
    assert write(model, examples, range(100, 107)) != whole


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_writing_leaves_the_model_and_the_generator_alone(
    model: LlamaForCausalLM, examples: tuple[EncodedExample, ...], dtype: torch.dtype
) -> None:
    """Mode, parameters, types and tie are as before; nobody else's numbers are drawn."""
    model.train()
    before = dict(model.named_parameters())
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    precision = Precision(torch.device("cpu"), dtype, 1)
    assert write(model, examples, precision=precision) == write(
        model, examples, precision=precision
    )
    assert torch.equal(torch.rand(2), expected)
    assert model.training
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert all(value.dtype == torch.float32 and value.requires_grad for value in after.values())


def test_draws_follow_the_distribution() -> None:
    """Evenly spread numbers give every token its share, to one draw; impossible ones never come."""
    count = 20_000
    logits = torch.tensor([0.3, float("-inf"), 2.0, -1.0, 0.0, float("-inf")])
    uniforms = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    found = draw(logits.expand(count, -1), uniforms).bincount(minlength=6)
    expected = torch.softmax(logits, dim=-1) * count
    assert (found - expected).abs().max() <= 1
    assert found[1] == found[5] == 0


def test_rare_tokens_of_a_large_vocabulary_are_drawn() -> None:
    """Behind likely ones: their shares are far below what float32 can tell of a sum near 1."""
    rare, share = 50_000, 1e-9
    logits = torch.full((1, 1 + rare), math.log(share))
    logits[0, 0] = 0.0
    tokens = torch.arange(1, rare + 1, 997)
    uniforms = (1 + (tokens - 0.5).double() * share) / (1 + rare * share)
    found = draw(logits.expand(len(tokens), -1), uniforms)
    assert (found - tokens).abs().max() <= 1


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_extreme_numbers_draw_possible_tokens(uniform: float) -> None:
    """The least and the largest number that there is find a token that the model can say."""
    logits = torch.full((1, 5000), -3.0)
    logits[:, :10] = logits[:, -10:] = float("-inf")
    assert 10 <= int(draw(logits, torch.tensor([uniform], dtype=torch.float64))) < 4990


def test_ids_without_a_token_are_never_said(
    model: LlamaForCausalLM, examples: tuple[EncodedExample, ...]
) -> None:
    """Rows of a head that is wider than the vocabulary are padding."""
    sampling = Sampling(12, 1.0, frozenset(), 40)
    written = write(model, examples, sampling=sampling)
    assert all(max(rollout.answer) < 40 for rollout in written)
    assert not any(rollout.ended for rollout in written)


def test_rows_that_ended_are_not_computed_any_more(
    model: LlamaForCausalLM,
    examples: tuple[EncodedExample, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A step computes those that are still writing."""
    rows: list[int] = []
    forward = model.base_model.forward

    def counted(input_ids: torch.Tensor, **rest: Any) -> object:
        rows.append(input_ids.shape[0])
        return forward(input_ids=input_ids, **rest)

    monkeypatch.setattr(model.base_model, "forward", counted)
    lengths = [len(rollout.answer) for rollout in write(model, examples)]
    longest = max(lengths)
    assert rows == [1, *(sum(length > step for length in lengths) for step in range(longest))]


def test_what_was_written_alone_is_learnt(examples: tuple[EncodedExample, ...]) -> None:
    """Prompt and answer, the end only where there is one."""
    example = examples[0]
    prompt = prompt_of(example).tolist()
    assert prompt + [int(id_) for id_ in example.input_ids[example.targets]] == (
        example.input_ids[: example.targets[-1] + 1].tolist()
    )
    ended = Rollout((9, 8, 2), ended=True).behind(example)
    cut = Rollout((9, 8), ended=False).behind(example)
    assert ended.input_ids.tolist() == [*prompt, 9, 8, 2]
    assert ended.targets.tolist() == [len(prompt), len(prompt) + 1, len(prompt) + 2]
    assert (ended.ended_turns, cut.ended_turns) == (1, 0)
    assert cut.input_ids.tolist() == [*prompt, 9, 8]
    assert Rollout((2,), ended=True).is_empty
    assert not Rollout((9, 2), ended=True).is_empty
