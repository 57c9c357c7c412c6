"""Warnings of models that answer many texts alike, which scores may not show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ollama_bridge.answer_text import without_thought
from ollama_bridge.evaluation.calls import given_answer
from ollama_bridge.evaluation.report import TEACHER, ZERO_SHOT
from ollama_bridge.examples import Example
from ollama_bridge.reporting import Note, Reporter

_HELP = "more examples, more epochs or more layers may help"
_SHOWN_CHARS = 60  # of an answer
_SHOWN_LABELS = 5
_ENOUGH_OF_A_LABEL = 3  # texts; of fewer, a good model may have all wrong by chance
_UNTAUGHT = (ZERO_SHOT, TEACHER)
_ENOUGH_TEXTS = 10  # of fewer, half may be answered alike by chance


def tell_of_labels(
    stage: str,
    examples: Sequence[Example],
    said: Mapping[str, Sequence[str]],
    reporter: Reporter,
) -> None:
    """Warn of models that have one label for every text, or never say some.

    Where most texts have one label, these have the accuracy of models that read them. Of one that
    was not taught the task it is no news that it lacks some; one that says none is wrong anyway.

    Args:
        said: Labels by the models' names, in the order of the examples.
    """
    texts = Counter(example.label for example in examples)
    if len(texts) == 1:
        return
    for name, labels in said.items():
        unsaid = [
            label
            for label, count in texts.items()
            if count >= _ENOUGH_OF_A_LABEL and label not in labels
        ]
        if len(set(labels)) == 1:
            found = f"says {labels[0]!r} to all {len(labels)} texts: it tells nothing apart"
        elif unsaid and not texts.keys().isdisjoint(labels) and name not in _UNTAUGHT:
            count = sum(texts[label] for label in unsaid)
            names = ", ".join(map(repr, unsaid[:_SHOWN_LABELS]))
            if (more := len(unsaid) - _SHOWN_LABELS) > 0:
                names += f" and {more} more"
            found = f"never says {names}, which {count} of {len(labels)} texts are"
        else:
            continue
        reporter.emit(Note(stage, "warning", f"{name} {found}; {_HELP}"))


def tell_of_replies(
    stage: str,
    examples: Sequence[Example],
    said: Mapping[str, Sequence[str]],
    reporter: Reporter,
) -> None:
    """Warn of models that write one answer to most texts, where others were to be learnt.

    Args:
        said: Answers by the models' names, in the order of the examples, which end on the ones
            that were to be learnt. Thoughts are no part of either: a daemon tells them apart.
    """
    if len(examples) < _ENOUGH_TEXTS:
        return
    for name, answers in said.items():
        answer, count = Counter(map(without_thought, answers)).most_common(1)[0]
        right = sum(given_answer(one) == answer for one in examples)
        if not answer or 2 * count <= len(answers) or 2 * right > count:
            continue
        shown = answer if len(answer) <= _SHOWN_CHARS else f"{answer[:_SHOWN_CHARS]}..."
        found = f"answers {count} of {len(answers)} texts with {shown!r}"
        reporter.emit(Note(stage, "warning", f"{name} {found}: it tells little apart; {_HELP}"))
