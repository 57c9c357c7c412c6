"""Answers that a model in training writes: sampled in batches, the same for the same seed.

A loop of our own rather than ``generate``: that one mixes in the generation config, draws from the
global generator, and computes rows that have ended until the last one has.

Letters: R prompts at once, P tokens that they begin with in common, W padded tokens behind these.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ollama_bridge.encoding.encode import EncodedExample
from ollama_bridge.models.compute.cache import as_argument, cache_of
from ollama_bridge.models.compute.forward import CausalModel, attention
from ollama_bridge.models.compute.head import VocabularyHead
from ollama_bridge.models.compute.precision import Precision
from ollama_bridge.models.compute.products import products_in

IDs = np.ndarray[Any, np.dtype[np.int32]]

# Bounds keys, values and logits, however many answers are kept.
ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn.

    Attributes:
        max_new_tokens: Limit of an answer.
        temperature: Divides the logits.
        ends: Token ids that end an answer.
        vocabulary: Ids below this are tokens; what a wider head has in addition is padding.
    """

    max_new_tokens: int
    temperature: float
    ends: frozenset[int]
    vocabulary: int


@dataclass(frozen=True)
class Rollout:
    """What was written behind a prompt.

    Attributes:
        answer: Token ids, the end included; never empty.
        ended: Whether the model ended it, rather than the limit.
    """

    answer: tuple[int, ...]
    ended: bool

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing but the end."""
        return self.ended and len(self.answer) == 1

    def behind(self, example: EncodedExample) -> EncodedExample:
        """The example with this answer in place of its last; of its answers this alone is learnt.

        Where it did not end, what it has is learnt and no end is.
        """
        prompt = prompt_of(example)
        ids = np.concatenate([prompt, np.asarray(self.answer, dtype=np.int32)])
        return EncodedExample(
            row=example.row,
            input_ids=ids,
            supervised=np.arange(len(ids)) >= len(prompt),
            turns=1,
            ended_turns=int(self.ended),
        )


def prompt_of(example: EncodedExample) -> IDs:
    """What comes before the last answer, (tokens,)."""
    return example.input_ids[: int(example.stretches[-1][0])]


def roll_out(
    model: CausalModel,
    examples: Sequence[EncodedExample],
    sampling: Sampling,
    *,
    numbers: Sequence[int],
    seed: tuple[int, ...],
    precision: Precision,
    implementation: str | None = None,
) -> list[Rollout]:
    """Write an answer behind the prompt of every example.

    What is drawn for an answer depends on the seed and its number alone, not on what is written
    beside it. The global generator is left alone.

    Args:
        model: On its device; in evaluation mode while it writes.
        examples: Whose prompts; may be none.
        sampling: How.
        numbers: Of the answers, one an example.
        seed: Of all of them.
        precision: The compute type.
        implementation: Of attention; None: as the model computes it now.
    """
    if not examples:
        return []
    uniforms = np.stack(
        [
            np.random.default_rng((*seed, number)).random(sampling.max_new_tokens)
            for number in numbers
        ]
    )
    prompts = [prompt_of(example) for example in examples]
    by_length = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    written: dict[int, list[int]] = {}
    implementation = implementation or model.config._attn_implementation
    with _writing(model, precision), attention(model, implementation):
        for start in range(0, len(by_length), ROWS_AT_ONCE):
            places = by_length[start : start + ROWS_AT_ONCE]
            rows = [prompts[place] for place in places]
            draws = torch.from_numpy(uniforms[places])
            answers = _write(model, rows, draws, sampling, precision)
            written.update(zip(places, answers, strict=True))
    return [
        Rollout(tuple(written[place]), written[place][-1] in sampling.ends)
        for place in range(len(examples))
    ]


def draw(logits: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Draw a token a row by inversion: the first whose cumulative probability exceeds the number.

    Sums and numbers are of float64: in steps of float32 rare tokens of a large vocabulary would
    have no share at all (0.1 % of the mass of 152k).

    Args:
        logits: (R, V), tempered.
        uniforms: (R,) float64 in [0, 1).

    Returns:
        (R,) int64; never a token of probability 0.
    """
    shares = torch.softmax(logits.float(), dim=-1)
    if shares.device.type == "mps":  # it has no float64
        shares = shares.cpu()
    cumulative = shares.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:].contiguous()
    places = uniforms.to(shares.device).unsqueeze(-1) * total
    found = torch.searchsorted(cumulative, places, right=True)
    # Rounding up to the total itself would find the place behind the last token.
    last = torch.searchsorted(cumulative, total)
    return torch.minimum(found, last).squeeze(-1).to(logits.device)


@contextlib.contextmanager
def _writing(model: CausalModel, precision: Precision) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), products_in(model, precision.dtype), precision.autocast():
            yield
    finally:
        model.train(was_training)


def _write(
    model: CausalModel,
    prompts: Sequence[IDs],
    uniforms: torch.Tensor,
    sampling: Sampling,
    precision: Precision,
) -> list[list[int]]:
    """The tokens of every prompt's answer, through the end token or up to the limit."""
    decoder, head = model.base_model, VocabularyHead(model)
    longest = max(map(len, prompts)) + sampling.max_new_tokens
    # A window counts places, and shorter prompts have padding between the prefix and the rest.
    shared = 0 if _has_window(model, longest=longest) else _shared_tokens(prompts)
    width = max(map(len, prompts)) - shared
    # Padded on the left, so that the next token is at the same place for all.
    ids = np.zeros((len(prompts), width), dtype=np.int64)
    real = np.ones((len(prompts), shared + width), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        padding = shared + width - len(prompt)
        ids[row, padding:] = prompt[shared:]
        real[row, shared : shared + padding] = 0
    input_ids = torch.from_numpy(ids).to(precision.device)
    mask = torch.from_numpy(real).to(precision.device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, shared:]
    cache = None
    if shared:
        prefix = torch.from_numpy(prompts[0][:shared].astype(np.int64)).to(precision.device)
        cache = cache_of(decoder(input_ids=prefix.unsqueeze(0), use_cache=True))
        cache.batch_repeat_interleave(len(prompts))
    answers: list[list[int]] = [[] for _ in prompts]
    running = list(range(len(prompts)))
    for place in range(sampling.max_new_tokens):
        output = decoder(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            **as_argument(cache),
        )
        cache = cache_of(output)
        logits = head(output.last_hidden_state[:, -1])[:, : sampling.vocabulary]
        drawn = draw(logits.float() / sampling.temperature, uniforms[running, place])
        kept = []
        for row, (number, token) in enumerate(zip(running, drawn.tolist(), strict=True)):
            answers[number].append(token)
            if token not in sampling.ends:
                kept.append(row)
        if not kept:
            break
        if len(kept) < len(running):
            running = [running[row] for row in kept]
            rows = torch.tensor(kept, device=precision.device)
            cache.batch_select_indices(rows)
            drawn, mask, positions = drawn[rows], mask[rows], positions[rows]
        input_ids = drawn.unsqueeze(-1)
        mask = torch.cat([mask, mask.new_ones(len(running), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return answers


def _has_window(model: CausalModel, *, longest: int) -> bool:
    """Whether a layer looks back over less than so many tokens."""
    window = getattr(model.config, "sliding_window", None)
    return window is not None and window < longest


def _shared_tokens(prompts: Sequence[IDs]) -> int:
    """How many tokens all prompts begin with; of each at least one is left."""
    limit = min(map(len, prompts)) - 1
    first = prompts[0][:limit]
    for prompt in prompts:
        same = first[:limit] == prompt[:limit]
        limit = limit if same.all() else int(np.argmin(same))
    return limit
