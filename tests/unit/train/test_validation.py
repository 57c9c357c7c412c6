"""Validation scores: what early stopping and people choose by."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from fakes.models import build_tiny_model, build_tiny_model_of_twins, build_tiny_tokenizer
from fakes.trainable import sentiment_examples

from ollama_bridge.encoding.batches import Batches
from ollama_bridge.encoding.encode import EncodedExample, encode_split
from ollama_bridge.evaluation.metrics import score
from ollama_bridge.examples import Example, Message
from ollama_bridge.models.compute.forward import run_decoder
from ollama_bridge.models.compute.head import VocabularyHead
from ollama_bridge.models.compute.precision import Precision
from ollama_bridge.train.stopping import answers_of_task, score_of_task
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


@dataclass
class Says:
    """A head that says what it is told, whatever the states are."""

    tokens: list[int]
    done: int = 0

    def likeliest(self, hidden: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        said = self.tokens[self.done : self.done + len(hidden)]
        self.done += len(hidden)
        return torch.tensor(said)


def test_macro_f1_counts_what_wrong_answers_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against its definition, on answers one of which begins as another one, and on nonsense."""
    labels = ("good", "good food", "awful")
    model, tokenizer = build_tiny_model(), build_tiny_tokenizer()
    gold = ["good"] * 5 + ["good food"] * 2 + ["awful"]
    said = ["good", "good", "good food", "awful", "nonsense", "good food", "good", "good"]
    examples = encode_split(
        [
            Example(f"{number}", (Message("user", f"{number}"), Message("assistant", label)), "g")
            for number, label in enumerate(gold)
        ],
        tokenizer,
        max_length=512,
        name="t",
    ).examples
    answers = {"nonsense": [5, 5, 5, 5]}
    for label, example in zip(gold, examples, strict=True):
        answers[label] = example.input_ids[example.targets].tolist()
    batches = Batches(examples, batch_tokens=400, pad_id=0)
    tokens: list[int] = []
    for batch in batches.in_order():
        for member in batch.members:
            length = len(examples[member].targets)
            tokens += (answers[said[member]] + [9] * length)[:length]
    precision = Precision(torch.device("cpu"), torch.float32, torch.get_num_threads())
    validator = Validator(
        model, batches, precision=precision, answers=answers_of_task(examples, labels)
    )
    monkeypatch.setattr(validator, "_head", Says(tokens))
    scores = validator()
    said[-1] = "nonsense"  # where it leaves "awful" it may become either of the others
    expected = score(gold, said, labels, bootstrap_samples=1)
    assert scores["macro_f1"] == pytest.approx(expected.macro_f1.value)
    assert scores["exact"] == pytest.approx(3 / 8)
    assert "macro_f1" not in Validator(model, batches, precision=precision)()


def test_of_a_conversation_the_last_answer_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the label; what was said before differs from text to text, and may be said wrong."""
    labels, tokenizer = ("good", "awful"), build_tiny_tokenizer()
    gold = ["good", "good", "awful", "awful"]
    examples = encode_split(
        [
            Example(
                f"{number}",
                (
                    Message("user", "Hello"),
                    Message("assistant", f"Hello, number {number}."),
                    Message("user", f"{number}"),
                    Message("assistant", label),
                ),
                "g",
            )
            for number, label in enumerate(gold)
        ],
        tokenizer,
        max_length=512,
        name="t",
    ).examples
    assert score_of_task(examples, labels) == "exact"
    batches = Batches(examples, batch_tokens=200, pad_id=0)
    answers = {label: examples[gold.index(label)].stretches[-1] for label in labels}
    ids = {label: examples[gold.index(label)].input_ids[at] for label, at in answers.items()}
    said = ["good", "good", "awful", "good"]
    tokens: list[int] = []
    for batch in batches.in_order():
        for member in batch.members:
            last = len(examples[member].stretches[-1])
            tokens += [9] * (len(examples[member].targets) - last)
            tokens += [*ids[said[member]].tolist(), *[9] * last][:last]
    precision = Precision(torch.device("cpu"), torch.float32, torch.get_num_threads())
    validator = Validator(
        build_tiny_model(), batches, precision=precision, answers=answers_of_task(examples, labels)
    )
    monkeypatch.setattr(validator, "_head", Says(tokens))
    scores = validator()
    expected = score(gold, said, labels, bootstrap_samples=1)
    assert scores["exact"] == 3 / 4
    assert scores["macro_f1"] == pytest.approx(expected.macro_f1.value)


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
