"""How well a model predicts given answers, and what its own greedy answers look like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ollama_bridge.encoding.batches import Batches
from ollama_bridge.encoding.encode import encode_split
from ollama_bridge.encoding.turn_texts import render_turns
from ollama_bridge.evaluation.metrics import perplexity
from ollama_bridge.examples import Example
from ollama_bridge.models.compute.cache import as_argument, cache_of
from ollama_bridge.models.compute.forward import CausalModel, run_decoder, vocabulary_logits
from ollama_bridge.models.compute.head import VocabularyHead
from ollama_bridge.models.compute.precision import Precision
from ollama_bridge.models.settings.end_tokens import end_ids
from ollama_bridge.reporting import Progress, Reporter

_BATCH_TOKENS = 2048
_POSITIONS_PER_CHUNK = 256
_ANSWERS_PER_BATCH = 16


@dataclass(frozen=True)
class Answer:
    """One greedy answer.

    Attributes:
        text: Without its end token.
        tokens: Its length, the end token included.
        ended: Whether the model ended it, rather than the limit.
    """

    text: str
    tokens: int
    ended: bool


@torch.inference_mode()
def measure_perplexity(
    model: CausalModel, tokenizer: Any, examples: Sequence[Example], *, precision: Precision
) -> dict[str, float]:
    """Perplexity a token of every assistant turn, its end included.

    Raises:
        DataError: no example fits the model's context.
    """
    limit = int(model.config.max_position_embeddings)
    split = encode_split(examples, tokenizer, max_length=limit, name="test")
    batches = Batches(
        split.examples, batch_tokens=_BATCH_TOKENS, pad_id=tokenizer.pad_token_id or 0
    )
    nll_sum, tokens = 0.0, 0
    for batch in batches.in_order():
        batch = batch.to(precision.device)
        with precision.autocast():
            hidden = run_decoder(model, batch).supervised
            for chunk, targets in zip(
                torch.split(hidden, _POSITIONS_PER_CHUNK),
                torch.split(batch.targets, _POSITIONS_PER_CHUNK),
                strict=True,
            ):
                logits = vocabulary_logits(model, chunk)
                nll = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
                nll_sum += float(nll)
                tokens += len(targets)
    return {
        "perplexity": perplexity(nll_sum, tokens),
        "tokens": float(tokens),
        "too_long": float(split.too_long),
    }


@torch.inference_mode()
def write_greedily(
    model: CausalModel,
    tokenizer: Any,
    examples: Sequence[Example],
    *,
    max_tokens: int,
    precision: Precision,
    stage: str,
    reporter: Reporter,
) -> list[Answer]:
    """Greedy answers to the last user turn of every example, in the order given.

    Greedy means the plain maximum: no penalties, whatever the checkpoint's generation config says.

    Raises:
        TrainingError: the chat template fails.
    """
    prompts = [
        render_turns(one.prompt, tokenizer, generation_prompt=True, tools=one.tools)
        for one in examples
    ]
    ids = tokenizer(prompts, add_special_tokens=False, verbose=False)["input_ids"]
    ends = end_ids(model, tokenizer)
    by_length = sorted(range(len(ids)), key=lambda place: len(ids[place]))
    answers: dict[int, Answer] = {}
    for start in range(0, len(by_length), _ANSWERS_PER_BATCH):
        places = by_length[start : start + _ANSWERS_PER_BATCH]
        written = _continue(
            model,
            [ids[place] for place in places],
            end_ids=ends,
            max_tokens=max_tokens,
            precision=precision,
        )
        for place, new_ids in zip(places, written, strict=True):
            answers[place] = _read(new_ids, tokenizer, ends)
        reporter.emit(Progress(stage, len(answers), len(examples), "answers"))
    return [answers[place] for place in range(len(examples))]


def _continue(
    model: CausalModel,
    prompts: Sequence[Sequence[int]],
    *,
    end_ids: frozenset[int],
    max_tokens: int,
    precision: Precision,
) -> list[list[int]]:
    """Greedy tokens for every prompt, through the end token or up to the limit.

    A loop of our own rather than ``generate``: that one mixes in the generation config.
    """
    width = max(map(len, prompts))
    device = precision.device
    pads = [width - len(prompt) for prompt in prompts]
    # Padded on the left, so that the next token is at the same place for all.
    input_ids = torch.tensor([[0] * pad + list(p) for pad, p in zip(pads, prompts, strict=True)])
    mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads])
    input_ids, mask = input_ids.to(device), mask.to(device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    written: list[list[int]] = [[] for _ in prompts]
    running = [True] * len(prompts)
    cache, head = None, VocabularyHead(model)
    for _ in range(max_tokens):
        with precision.autocast():
            output = model.base_model(
                input_ids=input_ids,
                attention_mask=mask,
                position_ids=positions,
                use_cache=True,
                **as_argument(cache),
            )
            last = output.last_hidden_state[:, -1]
            best = head.likeliest(last, vocabulary_logits(model, last))
        cache = cache_of(output)
        for place, token in enumerate(best.tolist()):
            if running[place]:
                written[place].append(token)
                running[place] = token not in end_ids
        if not any(running):
            break
        input_ids = best[:, None]
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return written


def _read(new_ids: Sequence[int], tokenizer: Any, end_ids: frozenset[int]) -> Answer:
    ended = bool(new_ids) and new_ids[-1] in end_ids
    text = tokenizer.decode(new_ids[:-1] if ended else new_ids, skip_special_tokens=False)
    return Answer(str(text).strip(), len(new_ids), ended)
