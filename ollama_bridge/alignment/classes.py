"""What two vocabularies have in common, as classes of tokens that begin the same text.

A token that both have is a class. To it belongs what only one of them has and the other would begin
with it: the teacher's ``unlike`` where the student writes ``un`` and ``like``, and the student's
longer words alike. So a class has the same mass on both sides where both say the same text, cut by
either in its own way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ollama_bridge.alignment.ladder import Alignment, Side, tokens_by_content

NO_CLASS = -1

Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class CommonClasses:
    """The class of every token, counted from 0; ``NO_CLASS``: none.

    Each class has a token of both. Padded rows have none, nor has what the other side cannot say:
    special tokens of its own, and parts of letters that it has no bytes for.

    Attributes:
        teacher: (its tokenizer's width,).
        student: (its tokenizer's width,).
    """

    teacher: Ints
    student: Ints


def common_classes(teacher: Side, student: Side, alignment: Alignment) -> CommonClasses:
    """Find the classes of two vocabularies.

    Args:
        alignment: Of these two, not of the last rung.
    """
    theirs, ours = teacher.vocabulary, student.vocabulary
    assert alignment.to_student is not None
    to_student, to_teacher = alignment.to_student, tokens_by_content(ours, teacher)
    # One place more than there are ids: what -1 leads to.
    of_teacher = np.full(theirs.width + 1, NO_CLASS, dtype=np.int64)
    of_student = np.full(ours.width + 1, NO_CLASS, dtype=np.int64)
    numbers: dict[int, int] = {}
    for id_, same in enumerate(to_student.tolist()):
        if same >= 0 and theirs.spelled(id_) == ours.spelled(same) != b"":
            of_teacher[id_] = of_student[same] = numbers.setdefault(same, len(numbers))
    # Each step leads to a shorter token, until one is met that both have.
    while True:
        before = int((of_teacher < 0).sum() + (of_student < 0).sum())
        _follow(of_teacher, to_student, of_student)
        _follow(of_student, to_teacher, of_teacher)
        if before == int((of_teacher < 0).sum() + (of_student < 0).sum()):
            return CommonClasses(of_teacher[:-1], of_student[:-1])


def _follow(classes: Ints, begins_with: Ints, others: Ints) -> None:
    """Give tokens without a class that of what the other side begins them with."""
    missing = np.nonzero(classes[:-1] == NO_CLASS)[0]
    classes[missing] = others[begins_with[missing]]
