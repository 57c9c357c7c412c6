"""Which labels a system prompt names, and the one that is offered in its place."""

from __future__ import annotations

import shlex

import pytest
import yaml

from ollama_bridge.data.task_prompt import advice_on_prompt, named_labels, prompt_for

SHIPPED = "Classify the sentiment of the text as positive or negative. Answer with one word."


@pytest.mark.parametrize(
    ("system", "labels", "named"),
    [
        (SHIPPED, ("positive", "negative"), ("positive", "negative")),
        (SHIPPED, ("Positive", "NEUTRAL"), ("Positive",)),
        (SHIPPED, ("positiv", "negativ"), ()),
        ("Is it in5 or 5in?", ("5", "in"), ()),
        ("Relevant, or not relevant?", ("relevant", "not relevant"), ("relevant", "not relevant")),
        ("Say '++' or '--'.", ("++", "--"), ("++", "--")),
        ("判断正面或负面", ("正面", "负面", "中性"), ("正面", "负面")),
        ("Rate it from 1 to 5.", ("1", "2", "3", "4", "5"), ("1", "2", "3", "4", "5")),
        ("Rate it from 1 to 4.", ("1", "2", "3", "4", "5"), ("1", "2", "3", "4")),
        ("Rate it in stars.", ("1", "2"), ()),
        (
            "Ne\u0301gatif ou positif\u00a0?",
            ("n\u00e9gatif", "positif"),
            ("n\u00e9gatif", "positif"),
        ),
    ],
)
def test_labels_are_words_of_their_own(
    system: str, labels: tuple[str, ...], named: tuple[str, ...]
) -> None:
    """In any case and spelling of accents; a word that begins like a label is another."""
    assert named_labels(system, labels) == named


@pytest.mark.parametrize(
    ("system", "labels"),
    [
        (SHIPPED, ("positive", "negative")),
        ("", ("positiv", "negativ")),
        ("Answer politely.", ()),
    ],
)
def test_nothing_is_said_where_nothing_is_missing(system: str, labels: tuple[str, ...]) -> None:
    """All labels are named, or the task has no prompt, or no labels."""
    assert advice_on_prompt(system, labels) is None


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (("positiv", "neutral", "negativ"), "none of the labels positiv, neutral, negativ"),
        (("positive", "neutral", "negative"), "positive, negative, but not neutral"),
        (
            ("it's fine", "z.B. so: #1", 'a "b"'),
            'none of the labels it\'s fine, z.B. so: #1, a "b"',
        ),
    ],
)
def test_what_is_missing_comes_with_a_prompt_that_has_it(
    labels: tuple[str, ...], found: str
) -> None:
    """The option that is printed gives just that prompt, whatever is in the labels."""
    said = str(advice_on_prompt(SHIPPED, labels))
    assert said.startswith(f"task.system names {found};")
    option, value = shlex.split(said[said.index("--set") :])
    key, _, text = value.partition("=")
    assert (option, key) == ("--set", "task.system")
    assert yaml.safe_load(text) == prompt_for(labels)
    assert named_labels(prompt_for(labels), labels) == labels
