"""Which of the teacher's predictions stands where the student makes one.

Teacher and student render and split a conversation each in its own way. What they have in common
is the text of the answers: a prediction is comparable where both stand at the same byte of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ollama_bridge.alignment.vocabulary import Vocabulary
from ollama_bridge.encoding.encode import EncodedExample

HOLE = -1

Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Places:
    """One example's predictions of the student, S of them.

    Attributes:
        teacher: (S,) number of the teacher's prediction at the same byte, counted over its
            supervised positions; ``HOLE`` where there is none.
        span: (S,) how many of the teacher's tokens the student's right token covers exactly; 1
            also where the teacher's token is the longer one.
    """

    teacher: Ints
    span: Ints

    @property
    def holes(self) -> int:
        """Predictions that have no counterpart."""
        return int((self.teacher == HOLE).sum())


def match_positions(
    teacher: EncodedExample,
    student: EncodedExample,
    *,
    teacher_vocabulary: Vocabulary,
    student_vocabulary: Vocabulary,
) -> Places:
    """Match the supervised positions of one conversation, encoded for both.

    Turn by turn, and in each from the answer's end as far as both say the same, because a tokenizer
    may have merged its first letters with the prompt, and thoughts before it are not written alike.
    What stands before that is holes, and so is what a template writes behind the token that ends a
    turn; all of a turn where not even the last byte is the same. Where one of the two has the last
    turn alone (a template that drops the thoughts of those before), so has the other.
    """
    theirs, ours = list(_turns(teacher)), list(_turns(student))
    total = sum(len(turn) for _, turn in ours)
    places = Places(np.full(total, HOLE, np.int64), np.ones(total, np.int64))
    if len(theirs) != len(ours):
        if 1 not in (teacher.turns, student.turns):
            return places  # which is which, nobody says
        theirs, ours = theirs[-1:], ours[-1:]
    for (their_start, their_ids), (our_start, our_ids) in zip(theirs, ours, strict=False):
        their_text, their_marks = _spell(their_ids, teacher_vocabulary)
        our_text, our_marks = _spell(our_ids, student_vocabulary)
        common = common_end(their_text, our_text)
        if not common and their_text and our_text:
            continue
        boundaries = {mark: number for number, mark in enumerate(their_marks)}
        for number, (begin, end) in enumerate(itertools.pairwise(our_marks)):
            first = boundaries.get(begin) if begin >= -common else None
            if first is None or first + 1 == len(their_marks):
                continue
            if end in boundaries:
                span = boundaries[end] - first
            elif their_marks[first + 1] > end:
                span = 1
            else:  # it ends inside of one of the teacher's tokens: how likely that is, nobody says
                continue
            places.teacher[our_start + number] = their_start + first
            places.span[our_start + number] = span
    return places


def _turns(example: EncodedExample) -> Iterator[tuple[int, Sequence[int]]]:
    """Runs of supervised tokens: number of the first among all supervised ones, and the ids."""
    start = 0
    for stretch in example.stretches:
        yield start, example.input_ids[stretch].tolist()
        start += len(stretch)


def common_end(left: bytes, right: bytes) -> int:
    """How many bytes at their end two texts have in common."""
    pairs = zip(reversed(left), reversed(right), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _spell(ids: Sequence[int], vocabulary: Vocabulary) -> tuple[bytes, list[int]]:
    """The bytes of an answer, and where tokens begin and the last one stops, from the answer's end.

    The token that ends the turn is the last one, and no part of the text.
    """
    stop = ids.index(vocabulary.end) if vocabulary.end in ids else len(ids)
    parts = [vocabulary.spelled(id_) for id_ in ids[: stop + 1]]
    text = b"".join(parts[:stop])
    marks = itertools.accumulate(map(len, parts), initial=-len(text))
    return text, list(marks)
