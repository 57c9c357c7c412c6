"""Early stopping: which weights are the best ones, and when it is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.models import build_tiny_tokenizer
from fakes.trainable import LABELS, SYSTEM, corpus_of, sentiment_examples

from ollama_bridge.encoding.encode import EncodedExample, encode_split
from ollama_bridge.errors import TrainingError
from ollama_bridge.examples import Example, Message
from ollama_bridge.recipe.config import (
    DistillSection,
    EarlyStoppingSection,
    StudentSection,
    TuneSection,
)
from ollama_bridge.storage.artifacts import Checkpoint, Corpus
from ollama_bridge.train.distill import distill
from ollama_bridge.train.finetune import finetune
from ollama_bridge.train.state import Position
from ollama_bridge.train.stopping import Stopping, key_of_last_answers, score_of_task

# Of free text whose answers are never right to the last token, though ever more of them is right.
TEXT = [
    {"exact": 0.0, "token_accuracy": 0.1 * number, "ce": 3.0 - number} for number in range(1, 6)
]


def evaluated(stopping: Stopping, evaluations: Sequence[Mapping[str, float]]) -> Position:
    """After evaluations at the steps 1, 2, ..., or as many of them as it wanted."""
    position = Position()
    for step, scores in enumerate(evaluations, start=1):
        stopping.is_best(position, {"step": step, "validation": scores})
        if stopping.is_over(position):
            break
    return position


def test_free_text_goes_by_its_tokens() -> None:
    """It learns on where no answer is right as a whole, and a worse score is not kept."""
    stopping = Stopping(EarlyStoppingSection(), "token_accuracy")
    position = evaluated(stopping, [*TEXT, {"exact": 0.5, "token_accuracy": 0.4, "ce": 0.1}])
    assert position.best == {"step": 5, "validation": TEXT[-1]}
    assert position.stale == 1
    assert stopping.problem(TEXT[-1]) is None


def test_of_equal_scores_the_lower_loss_is_better() -> None:
    """On few texts equal shares are common; a named metric counts alone."""
    scores = [{"exact": 0.9, "token_accuracy": 0.0, "ce": ce} for ce in (0.5, 0.3, 0.4)]
    by_task = evaluated(Stopping(EarlyStoppingSection(), "exact"), scores)
    named = evaluated(Stopping(EarlyStoppingSection(metric="exact"), "exact"), scores)
    assert by_task.best is not None
    assert named.best is not None
    assert (by_task.best["step"], by_task.stale) == (2, 1)
    assert (named.best["step"], named.stale) == (1, 2)


def test_a_metric_that_no_text_can_reach_is_told() -> None:
    """Exact answers of free text: the first weights are kept, and the note says what to do."""
    stopping = Stopping(EarlyStoppingSection(metric="exact"), "token_accuracy")
    position = evaluated(stopping, TEXT)
    assert position.best == {"step": 1, "validation": TEXT[0]}
    assert position.stale == 3
    assert "leave out early_stopping.metric" in str(stopping.problem(TEXT[0]))
    assert stopping.problem({"exact": 0.01}) is None


def test_rare_labels_may_count_as_much_as_common_ones() -> None:
    """Who always says the commonest label is right most often, and has no good F1."""
    scores = [
        {"exact": 0.9, "macro_f1": 0.47, "ce": 0.3},
        {"exact": 0.88, "macro_f1": 0.71, "ce": 0.4},
    ]
    position = evaluated(Stopping(EarlyStoppingSection(metric="macro_f1"), "exact"), scores)
    assert position.best == {"step": 2, "validation": scores[1]}
    with pytest.raises(TrainingError, match="free text") as caught:
        Stopping(EarlyStoppingSection(metric="macro_f1"), "token_accuracy")
    assert "token_accuracy" in (caught.value.hint or "")


def encoded(examples: Sequence[Example]) -> tuple[EncodedExample, ...]:
    return encode_split(
        examples, build_tiny_tokenizer(), max_length=512, name="validation"
    ).examples


def test_the_task_is_found_in_the_answers() -> None:
    """Labels are right or wrong as a whole; free text, and thoughts in front of labels, are not."""
    labelled = sentiment_examples(12, name="validation")
    assert score_of_task(encoded(labelled), LABELS) == "exact"
    assert score_of_task(encoded(labelled), ()) == "token_accuracy"
    thinking = [
        replace(
            one,
            messages=(
                *one.prompt,
                Message("assistant", f"<think>\n{one.id}\n</think>\n\n{one.label}"),
            ),
        )
        for one in labelled
    ]
    assert score_of_task(encoded(thinking), LABELS) == "token_accuracy"


@pytest.mark.parametrize(("labels", "score"), [(LABELS, "exact"), ((), "token_accuracy")])
def test_both_stages_say_what_their_task_is(
    base: Checkpoint,
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    labels: tuple[str, ...],
    score: str,
) -> None:
    """A recipe that names no metric gets that of its task."""
    told: list[str] = []

    def stopped(*_: Any, score: str, **__: Any) -> None:
        told.append(score)
        raise KeyboardInterrupt

    for stage in ("finetune", "distill"):
        monkeypatch.setattr(f"ollama_bridge.train.{stage}.train", stopped)
    with pytest.raises(KeyboardInterrupt):
        finetune(
            base, corpus, TuneSection(), system=SYSTEM, labels=labels, out_dir=tmp_path / "tuned"
        )
    with pytest.raises(KeyboardInterrupt):
        distill(
            base,
            corpus,
            None,
            DistillSection(kd_weight=0),
            student=StudentSection(layers=2),
            system=SYSTEM,
            task_labels=labels,
            out_dir=tmp_path / "student",
        )
    assert told == [score, score]


def test_what_was_stopped_by_all_answers_is_other_work(tmp_path: Path) -> None:
    """Where labels end conversations with earlier answers, and nowhere else."""
    single = sentiment_examples(3, name="validation")
    before = (Message("user", "Hi"), Message("assistant", "Hello"))
    several = [replace(one, messages=(*before, *one.messages[1:])) for one in single]
    stopped = TuneSection(early_stopping=EarlyStoppingSection())

    def key(examples: Sequence[Example], name: str) -> list[dict[str, str]]:
        corpus = corpus_of(tmp_path / name, {"validation": examples})
        return [
            key_of_last_answers(settings, corpus, labels)
            for settings, labels in ((stopped, LABELS), (stopped, ()), (TuneSection(), LABELS))
        ]

    assert key(single, "single") == [{}, {}, {}]
    assert key(several, "several") == [{"stopped by": "last answers"}, {}, {}]


def test_a_recipe_that_names_its_metric_is_the_work_that_it_was() -> None:
    """What decides the result stands in the key as before there was a choice by task."""
    named = EarlyStoppingSection.model_validate({"metric": "exact"})
    assert named.model_dump() == {"metric": "exact", "patience": 3, "interval_epochs": 0.25}
    assert EarlyStoppingSection().model_dump()["metric"] is None
