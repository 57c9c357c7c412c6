"""Which label a model gives to every text, from its log-probabilities."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ollama_bridge.encoding.batches import Batch, Batches
from ollama_bridge.encoding.encode import EncodedExample, encode_split
from ollama_bridge.errors import DataError
from ollama_bridge.evaluation.metrics import OTHER
from ollama_bridge.examples import Example, Message
from ollama_bridge.models.compute.forward import CausalModel, run_decoder, vocabulary_logits
from ollama_bridge.models.compute.head import VocabularyHead
from ollama_bridge.models.compute.precision import Precision
from ollama_bridge.reporting import Note, Progress, Reporter

_BATCH_TOKENS = 2048
_POSITIONS_PER_CHUNK = 256
_UNLIKE = ("a", "Z")  # answers that have in common what a template writes in front of any


@dataclass(frozen=True)
class LabelScores:
    """Scores of all labels for every text.

    Attributes:
        log_probs: (texts, labels) float32; of the label's tokens, the end token included where
            labels have more than one token. NaN where a text does not fit.
        chosen: (texts,) int; number of the label that greedy decoding among the labels comes to.
            Meaningless where a text does not fit.
        fits: (texts,) bool; whether the model's context has room for the text.
        says_label: Share of texts whose likeliest token of the whole vocabulary begins a label,
            behind what the template writes in front of any answer; of those that fit.
        texts_per_s: Speed of the scoring.
    """

    log_probs: np.ndarray[Any, np.dtype[np.float32]]
    chosen: np.ndarray[Any, np.dtype[np.int64]]
    fits: np.ndarray[Any, np.dtype[np.bool_]]
    says_label: float
    texts_per_s: float

    def predictions(self, labels: Sequence[str]) -> list[str]:
        """The label that is chosen for every text; ``OTHER`` where it does not fit."""
        return [
            labels[place] if fits else OTHER
            for place, fits in zip(self.chosen, self.fits, strict=True)
        ]


@torch.inference_mode()
def score_labels(
    model: CausalModel,
    tokenizer: Any,  # transformers' fast tokenizer; its classes carry no useful types
    examples: Sequence[Example],
    labels: Sequence[str],
    *,
    precision: Precision,
    stage: str,
    reporter: Reporter,
) -> LabelScores:
    """Score every label as the answer to every text.

    Where each label is one token, they are read off the one distribution behind the prompt, which
    is what greedy decoding compares. Longer labels are scored whole, with their end token, so that
    ``bad`` does not win as the beginning of ``bad luck``; chosen is the one that greedy decoding
    comes to, token by token, as whoever is served gets it. The likeliest as a whole may be another:
    labels that begin alike share what is given to that beginning, and a model that is hardly
    trained takes probability from a label at each of its tokens.

    Args:
        model: On ``precision.device``.
        tokenizer: The checkpoint's own.
        examples: Each ends on an assistant turn, whose text does not matter.
        precision: Type of the forward pass; the logits of labels are float32.

    Raises:
        DataError: all texts are longer than the model's context.
    """
    start_s = time.monotonic()
    variants = [_encode(examples, label, tokenizer) for label in labels]
    fits = _which_fit(variants, _limit(model), stage=stage, reporter=reporter)
    variants = [[variant[place] for place in np.flatnonzero(fits)] for variant in variants]
    answers = [_answer_ids(variant[0]) for variant in variants]
    before = _written_before(examples[0], labels, tokenizer)
    first_ids = [answer[before] for answer in answers]
    prompts_agree = all(
        int(variant[0].targets[0]) == int(variants[0][0].targets[0]) for variant in variants
    )
    one_token = all(len(answer) <= 2 for answer in answers) and len(set(first_ids)) == len(labels)
    run = _Run(model, precision, tokenizer.pad_token_id or 0, stage, reporter)
    if one_token and prompts_agree:
        prompts = [_only_first(example) for example in variants[0]]
        log_probs, says_label = run.first_tokens(prompts, first_ids)
        chosen = log_probs.argmax(axis=1)
    else:
        by_token, says_label = run.whole_answers(variants, first_ids, before=before)
        log_probs = np.array([[sum(one) for one in text] for text in by_token], dtype=np.float32)
        chosen = np.array(
            [
                _greedy_choice([_answer_ids(variant[text]) for variant in variants], given)
                for text, given in enumerate(by_token)
            ]
        )
    elapsed_s = max(1e-9, time.monotonic() - start_s)
    scores = np.full((len(examples), len(labels)), np.nan, dtype=np.float32)
    scores[fits] = log_probs
    choices = np.zeros(len(examples), dtype=np.int64)
    choices[fits] = chosen
    return LabelScores(scores, choices, fits, says_label, len(log_probs) / elapsed_s)


class _Run:
    def __init__(
        self,
        model: CausalModel,
        precision: Precision,
        pad_id: int,
        stage: str,
        reporter: Reporter,
    ) -> None:
        self._model = model
        self._head = VocabularyHead(model)
        self._precision = precision
        self._pad_id = pad_id
        self._stage = stage
        self._reporter = reporter

    def first_tokens(
        self, prompts: Sequence[EncodedExample], ids: Sequence[int]
    ) -> tuple[np.ndarray[Any, np.dtype[np.float32]], float]:
        """(texts, labels) log-probabilities of the labels' only token."""
        scores = np.zeros((len(prompts), len(ids)), dtype=np.float32)
        begins = 0
        done = 0
        tokens = torch.tensor(ids, device=self._precision.device)
        for batch, hidden, logits in self._logits(prompts):  # one position an example, in order
            likeliest, log_probs = self._compared(tokens, hidden, logits)
            scores[list(batch.members)] = log_probs.cpu().numpy()
            begins += sum(best in ids for best in likeliest.tolist())
            done += len(batch.members)
            self._reporter.emit(Progress(self._stage, done, len(prompts), "texts"))
        return scores, begins / len(prompts)

    def whole_answers(
        self,
        variants: Sequence[Sequence[EncodedExample]],
        first_ids: Sequence[int],
        *,
        before: int,
    ) -> tuple[list[list[list[float]]], float]:
        """Of each text, label and token its log-probability; labels begin ``before`` tokens in."""
        scores: list[list[list[float]]] = [[[] for _ in variants] for _ in variants[0]]
        begins, done, total = 0, 0, len(variants) * len(variants[0])
        for place, variant in enumerate(variants):
            for batch, hidden, logits in self._logits(variant):
                found = batch.targets.unique(return_inverse=True)
                tokens, places = found
                likeliest, log_probs = self._compared(tokens, hidden, logits)
                log_probs = log_probs.gather(1, places[:, None])[:, 0]
                for owner, value in zip(batch.owners.tolist(), log_probs.tolist(), strict=True):
                    scores[batch.members[owner]][place].append(value)
                if place == 0:
                    first = _places_in_answers(batch.owners) == before
                    begins += sum(best in first_ids for best in likeliest[first].tolist())
                done += len(batch.members)
                self._reporter.emit(Progress(self._stage, done, total, "answers"))
        return scores, begins / len(variants[0])

    def _compared(
        self, tokens: torch.Tensor, hidden: torch.Tensor, logits: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The likeliest token of every position, and log-probabilities (positions, k) of some.

        What is compared must not be rounded as the rest, nor what makes up the sum that it is a
        share of: that of a label's second token differs from label to label. Overwrites ``logits``.
        """
        with self._precision.autocast():
            ids, largest = self._head.largest(hidden, logits)
            own = self._head.logits_of(tokens, hidden)
        likeliest = ids.gather(1, largest.argmax(dim=1, keepdim=True))[:, 0]
        logits.scatter_(1, ids, largest).scatter_(1, tokens.expand(len(logits), -1), own)
        return likeliest, own - logits.logsumexp(dim=-1, keepdim=True)

    def _logits(
        self, examples: Sequence[EncodedExample]
    ) -> Iterator[tuple[Batch, torch.Tensor, torch.Tensor]]:
        """Batch by batch, with the hidden states and logits of its supervised positions."""
        batches = Batches(examples, batch_tokens=_BATCH_TOKENS, pad_id=self._pad_id)
        for batch in batches.in_order():
            batch = batch.to(self._precision.device)
            with self._precision.autocast():
                hidden = run_decoder(self._model, batch).supervised
                logits = torch.cat(
                    [
                        vocabulary_logits(self._model, chunk)
                        for chunk in torch.split(hidden, _POSITIONS_PER_CHUNK)
                    ]
                )
            yield batch, hidden, logits


def _greedy_choice(answers: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]]) -> int:
    """The number of the answer that greedy decoding comes to where only these can be said.

    Args:
        answers: Token ids of each, the end among them.
        log_probs: Of each of these tokens.
    """
    left, place = list(range(len(answers))), 0
    # One that another begins with, where a template ends no turn, is over first.
    while len(left) > 1 and all(len(answers[one]) > place for one in left):
        best = max(left, key=lambda one: log_probs[one][place])
        left = [one for one in left if answers[one][place] == answers[best][place]]
        place += 1
    return min(left, key=lambda one: len(answers[one]))


def _answer_ids(example: EncodedExample) -> list[int]:
    """Token ids of what is supervised."""
    ids: list[int] = example.input_ids[example.supervised].tolist()
    return ids


def _encode(examples: Sequence[Example], label: str, tokenizer: Any) -> list[EncodedExample]:
    """Every text with ``label`` as its answer; only that answer is supervised."""
    answered = [
        replace(one, messages=(*one.prompt, Message("assistant", label))) for one in examples
    ]
    split = encode_split(answered, tokenizer, max_length=sys.maxsize, name="test")
    return [_only_last_turn(example) for example in split.examples]


def _written_before(example: Example, labels: Sequence[str], tokenizer: Any) -> int:
    """How many tokens of an answer are the template's own: Qwen3 writes an empty thought.

    What labels alone have in common, as ``very good`` and ``very bad``, is theirs.
    """
    encoded = [_encode([example], answer, tokenizer)[0] for answer in (*labels, *_UNLIKE)]
    answers = [one.input_ids[one.supervised].tolist() for one in encoded]
    shared = itertools.takewhile(lambda ids: len(set(ids)) == 1, zip(*answers, strict=False))
    return len(list(shared))


def _places_in_answers(owners: torch.Tensor) -> torch.Tensor:
    """(positions,) of every token its number in the answer; those of an owner are side by side."""
    numbers = torch.arange(len(owners), device=owners.device)
    begins = torch.ones_like(owners, dtype=torch.bool)
    begins[1:] = owners[1:] != owners[:-1]
    return numbers - torch.where(begins, numbers, 0).cummax(dim=0).values


def _which_fit(
    variants: Sequence[Sequence[EncodedExample]], limit: int, *, stage: str, reporter: Reporter
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which texts (texts,) a model can read with any label; how many it cannot is told.

    Raises:
        DataError: there are none.
    """
    lengths = [[len(example.input_ids) for example in variant] for variant in variants]
    fits = np.max(lengths, axis=0) <= limit
    found = f"test texts are longer than the model's context of {limit} tokens"
    if not fits.any():
        raise DataError(f"all {len(fits)} {found}", hint="lower data.max_chars")
    if not fits.all():
        count = f"{int((~fits).sum())} of {len(fits)}"
        reporter.emit(Note(stage, "warning", f"{count} {found}, and count as answered wrong"))
    return np.asarray(fits, dtype=np.bool_)


def _only_last_turn(example: EncodedExample) -> EncodedExample:
    """Leave earlier assistant turns out of the score."""
    targets = example.targets
    breaks = np.flatnonzero(np.diff(targets) > 1)
    start = targets[breaks[-1] + 1] if len(breaks) else targets[0]
    supervised = example.supervised.copy()
    supervised[:start] = False
    return replace(example, supervised=supervised)


def _only_first(example: EncodedExample) -> EncodedExample:
    supervised = np.zeros_like(example.supervised)
    supervised[example.targets[0]] = True
    return replace(example, supervised=supervised)


def _limit(model: CausalModel) -> int:
    return int(model.config.max_position_embeddings)
