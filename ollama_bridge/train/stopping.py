"""Early stopping: by which scores weights are compared, and when no better ones are expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ollama_bridge.encoding.encode import EncodedExample
from ollama_bridge.errors import TrainingError
from ollama_bridge.examples import read_examples
from ollama_bridge.recipe.config import EarlyStoppingSection, OptimizerSection
from ollama_bridge.storage.artifacts import Corpus
from ollama_bridge.train.state import Position


@dataclass(frozen=True)
class Stopping:
    """When a phase stops early.

    Attributes:
        section: What the recipe says.
        by_task: The score that weights are compared by where it names none.
    """

    section: EarlyStoppingSection
    by_task: str

    def __post_init__(self) -> None:
        """Make sure that the score is there.

        Raises:
            TrainingError: answers that are no labels have no F1.
        """
        if self.section.metric == "macro_f1" and self.by_task != "exact":
            raise TrainingError(
                "early_stopping.metric macro_f1: the answers are free text, or have thoughts in "
                "front of labels",
                hint="leave out early_stopping.metric, or set it to token_accuracy",
            )

    def interval(self, epoch_steps: int) -> int:
        """Steps between evaluations, the ends of epochs aside."""
        return max(1, round(self.section.interval_epochs * epoch_steps))

    def is_best(self, position: Position, entry: Mapping[str, Any]) -> bool:
        """Compare an evaluation with the best one, and remember the better."""
        scores = entry["validation"]
        if position.best is not None and self._rank(scores) <= self._rank(
            position.best["validation"]
        ):
            position.stale += 1
            return False
        position.best = {"step": entry["step"], "validation": scores}
        position.stale = 0
        return True

    def is_over(self, position: Position) -> bool:
        """Whether enough evaluations were no better."""
        return position.stale >= self.section.patience

    def problem(self, best: Mapping[str, float]) -> str | None:
        """Why the best weights may be no better than others, for people."""
        if self.section.metric != "exact" or best["exact"] > 0:
            return None
        return (
            "no answer was ever right to the last token, so early stopping kept the weights of "
            "its first evaluation: leave out early_stopping.metric, or set it to token_accuracy"
        )

    def _rank(self, scores: Mapping[str, float]) -> tuple[float, ...]:
        """The higher the better."""
        metric = self.section.metric
        if metric is None:
            return scores[self.by_task], -scores["ce"]
        return (-scores["ce"] if metric == "ce" else scores[metric],)


def score_of_task(examples: Sequence[EncodedExample], labels: Sequence[str]) -> str:
    """The score of a validation split that says most of what its task is.

    Of answers that are labels it is how many are right. Of free text, thoughts in front of a label
    included, hardly one is right to the last token, and what counts is how many tokens are.
    """
    return "exact" if answers_of_task(examples, labels) else "token_accuracy"


def answers_of_task(
    examples: Sequence[EncodedExample], labels: Sequence[str]
) -> tuple[tuple[int, ...], ...]:
    """The tokens of every last answer that a validation split has; empty where they are no labels.

    Of a classification the last answer is the label, whatever was said before.
    """
    answers = {tuple(example.input_ids[example.stretches[-1]].tolist()) for example in examples}
    return tuple(sorted(answers)) if len(answers) <= len(labels) else ()


def key_of_last_answers(
    settings: OptimizerSection, corpus: Corpus, labels: Sequence[str]
) -> dict[str, str]:
    """For the key of work that was stopped by all answers of a conversation; empty elsewhere."""
    if settings.early_stopping is None or not labels:
        return {}
    several = any(
        any(message.role == "assistant" for message in example.messages[:-1])
        for example in read_examples(corpus.split_path("validation"))
    )
    return {"stopped by": "last answers"} if several else {}
