"""Validation scores: what early stopping and people choose by."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from fakes.models import build_tiny_model_of_twins, build_tiny_tokenizer
from fakes.trainable import sentiment_examples

from ollama_bridge.batches import Batches
from ollama_bridge.encoding import EncodedExample, encode_split
from ollama_bridge.models.forward import run_decoder
from ollama_bridge.models.head import VocabularyHead
from ollama_bridge.models.precision import Precision
from ollama_bridge.train.validation import Validator


def one_token_examples(count: int) -> list[EncodedExample]:
    """The beginnings of answers."""
    split = encode_split(
        sentiment_examples(count, name="t"), build_tiny_tokenizer(), max_length=512, name="t"
    )
    examples = []
    for example in split.examples:
        supervised = np.zeros_like(example.supervised)
        supervised[example.targets[0]] = True
        examples.append(replace(example, supervised=supervised))
    return examples


def test_of_two_answers_that_are_nearly_as_likely_the_likelier_one_is_right() -> None:
    """In bfloat16, too, where their logits are one number: `evaluate` compares them so."""
    model, examples = build_tiny_model_of_twins(), one_token_examples(40)
    precision = Precision(torch.device("cpu"), torch.bfloat16, torch.get_num_threads())
    asked = Batches(examples, batch_tokens=400, pad_id=0)
    for batch in asked.in_order():
        with torch.no_grad(), precision.autocast():
            hidden = run_decoder(model, batch).supervised
        said = VocabularyHead(model)(hidden.bfloat16().float()).argmax(-1)
        for member, token in zip(batch.members, said.tolist(), strict=True):
            example = examples[member]
            input_ids = example.input_ids.copy()
            input_ids[example.targets[0]] = token
            examples[member] = replace(example, input_ids=input_ids)
    answered = Batches(examples, batch_tokens=400, pad_id=0)
    scores = Validator(model, answered, precision=precision)()
    assert (scores["exact"], scores["token_accuracy"]) == (1.0, 1.0)
