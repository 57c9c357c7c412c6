"""What the text of an answer says: its thought, the answer itself, and whether that is a label.

Knows words only: no models, no templates. A teacher's traces are judged by it, and so are the
answers of its students.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

THOUGHT_END = "</think>"

_THOUGHT_START = "<think>"
_OPENING = re.compile(r"<think>\s*")
_OPENED = re.compile(r"<think>\s*\Z")
# Marks of Markdown in front of a line; a minus without a blank belongs to its number.
_LINE_MARK = re.compile(r"^(?:#+|[-+*•>])\s+")
_SENTENCE_MARKS = " \t\n.,;:!?…。！？"
# Of a pair that encloses everything. One alone may mean something: ``A*`` is no ``A``.
_ENCLOSING = dict(zip("*_`~$\"'“‘„«「『([{", "*_`~$\"'”’“»」』)]}", strict=True))
_LEADS = re.compile(r"^(?:the )?(?:final )?(?:answer|label|sentiment)(?: is)?\s*:?\s+", re.I)


def with_thought(answer: str, thought: str) -> str:
    """A thought and the answer behind it, as one text."""
    return f"{_THOUGHT_START}\n{thought.strip()}\n{THOUGHT_END}\n\n{answer}"


def thought_opening(text: str) -> str:
    """The mark that a text with a thought begins with; empty where it begins otherwise."""
    found = _OPENING.match(text)
    return "" if found is None else found[0]


def behind_prompt(prompt: str, text: str, *, length: int) -> str:
    """A prompt and the beginning of an answer, as a model that is asked goes on from there.

    A prompt may have opened the thought: an answer with a thought goes on in it, one without
    closes it first.

    Args:
        prompt: Rendered.
        text: The whole answer, with its thought or without.
        length: Of the beginning, in characters.
    """
    opened = _OPENED.search(prompt)
    if opened is None:
        return prompt + text[:length]
    if THOUGHT_END not in text:
        return f"{prompt}\n{THOUGHT_END}\n\n{text[:length]}"
    if thought_opening(text):
        return prompt[: opened.start()] + text[:length]
    return prompt + text[:length]


def without_thought(text: str) -> str:
    """The answer alone; the thought may have been opened by the prompt."""
    return text.rpartition(THOUGHT_END)[2].strip()


def says(answer: str, label: str, *, in_its_case: bool = False) -> bool:
    """Whether an answer says a label: alone, whatever its case and the marks around it.

    Marks are those of Markdown, of quoting and of the end of a sentence; all others are part of
    what is said. ``**Positive.**`` and ``Answer: positive`` say ``positive``; ``not positive`` does
    not, nor does ``A+`` say ``A``, or ``.5`` say ``5``.

    Args:
        answer: Without a thought.
        label: The right one.
        in_its_case: Another case says another label, or none; see :func:`told_apart_by_case`.
    """
    spelt = _spaced if in_its_case else _folded
    if spelt(answer) == spelt(label):
        return True
    said = _plain(_LEADS.sub("", _plain(answer)))
    return said != "" and spelt(said) == spelt(_plain(label))


def told_apart_by_case(labels: Iterable[str]) -> frozenset[str]:
    """Those of the labels that differ from another one in case alone, as ``US`` and ``us`` do."""
    labels = set(labels)
    often = Counter(_folded(_plain(label)) for label in labels)
    return frozenset(label for label in labels if often[_folded(_plain(label))] > 1)


def _plain(text: str) -> str:
    bare = _LINE_MARK.sub("", text.strip()).rstrip(_SENTENCE_MARKS)
    if len(bare) > 2 and _ENCLOSING.get(bare[0]) == bare[-1]:
        bare = bare[1:-1]
    return bare if bare == text else _plain(bare)


def _folded(text: str) -> str:
    return _spaced(text.casefold())


def _spaced(text: str) -> str:
    return " ".join(text.split())
