"""How a teacher can teach a student whose vocabulary may be another: the ladder.

From the top: the same ids; the same ids in matrices of different width; tokens mapped by their
bytes; text alone. The rung is found by content, on every token and on texts of the task, because
neither equal widths nor equal names prove anything (a Qwen of 151,936 rows and one of 152,064 have
the same tokens; two fine-tunes of one model need not).
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ollama_bridge.alignment.token_text import first_tokens, split_texts
from ollama_bridge.alignment.vocabulary import Vocabulary, read_vocabulary
from ollama_bridge.encoding.encode import Tokenizer
from ollama_bridge.errors import TrainingError

# Of the teacher's predictions; with fewer, most of what is learnt comes from hard labels anyway.
_LEAST_COMPARABLE = 0.5

Ints = np.ndarray[Any, np.dtype[np.int64]]


class Rung(enum.IntEnum):
    """How much of a teacher's distribution the student can use; the lower the number the more."""

    SAME = 1
    PADDED = 2
    MAPPED = 3
    SEQUENCE = 4


@dataclass(frozen=True)
class Alignment:
    """What was found.

    Attributes:
        rung: The best that holds.
        sentence: It in one sentence, for people.
        reasons: Why none of the rungs above, one each.
        to_student: (teacher's width,) the student's id that says what this id says, or its first
            token where it takes several; -1 where nothing does. None on the last rung.
    """

    rung: Rung
    sentence: str
    reasons: tuple[str, ...]
    to_student: Ints | None


@dataclass(frozen=True)
class Side:
    """A model as far as the ladder is concerned.

    Attributes:
        vocabulary: By content.
        tokenizer: Splits texts.
    """

    vocabulary: Vocabulary
    tokenizer: Tokenizer

    @classmethod
    def of(cls, tokenizer: Tokenizer, *, width: int | None = None) -> Side:
        """Read the side of a model.

        Args:
            tokenizer: Its own.
            width: Rows of its head; None: as many as the tokenizer has ids.
        """
        width = width or 1 + max(tokenizer.get_vocab().values())
        return cls(read_vocabulary(tokenizer, width=width), tokenizer)


def align(teacher: Side, student: Side, texts: Sequence[str]) -> Alignment:
    """Find the rung.

    Args:
        student: Who learns from them.
        texts: Answers of the task: what both have to split.

    Raises:
        TrainingError: not even the teacher's text can be learnt, with the reason.
    """
    _check_sequence(student, texts)
    theirs, ours = teacher.vocabulary, student.vocabulary
    reasons = []
    difference = _difference(theirs, ours) or _split_difference(teacher, student, texts)
    if difference is None:
        if theirs.width == ours.width:
            sentence = f"teacher and student have the same {theirs.used} tokens under the same ids"
            return Alignment(Rung.SAME, sentence, (), np.arange(theirs.width))
        to_student = np.arange(theirs.width)
        to_student[ours.width :] = -1
        wider, by = ("teacher", theirs) if theirs.width > ours.width else ("student", ours)
        padded = abs(theirs.width - ours.width)
        sentence = (
            f"teacher and student have the same {theirs.used} tokens under the same ids; the last "
            f"{padded} of the {wider}'s {by.width} rows hold no token and are left out"
        )
        reason = f"the teacher has {theirs.width} rows, the student {ours.width}"
        return Alignment(Rung.PADDED, sentence, (reason,), to_student)
    reasons.append(difference)
    share = _comparable(teacher, student, texts)
    if share >= _LEAST_COMPARABLE:
        to_student = tokens_by_content(theirs, student)
        mapped = int((to_student >= 0).sum())
        sentence = (
            f"the vocabularies differ: {mapped} of the teacher's {theirs.used} tokens are mapped "
            f"by their text, and {share:.0%} of the answers' tokens begin where one of the "
            "teacher's does"
        )
        return Alignment(Rung.MAPPED, sentence, tuple(reasons), to_student)
    reasons.append(f"only {share:.0%} of the answers' tokens begin where one of the teacher's does")
    sentence = (
        "the vocabularies have too little in common for any loss of distributions: the student "
        "learns from the teacher's text alone"
    )
    return Alignment(Rung.SEQUENCE, sentence, tuple(reasons), None)


def tokens_by_content(left: Vocabulary, right: Side) -> Ints:
    """What one vocabulary's tokens are in another.

    Returns:
        (left's width,) the id in ``right`` that says what this id says, or of the first token where
        it takes several; -1 where nothing does.
    """
    vocabulary = right.vocabulary
    found = np.full(left.width, -1, dtype=np.int64)
    texts: dict[int, str] = {}
    for id_ in range(len(left.tokens)):
        spelled = left.spelled(id_)
        if not spelled:
            continue
        same = vocabulary.ids.get(spelled)
        if same is not None:
            found[id_] = same
        elif id_ not in left.special:
            try:
                texts[id_] = spelled.decode()
            except UnicodeDecodeError:  # a part of a letter: begins with a byte's token
                found[id_] = vocabulary.ids.get(spelled[:1], -1)
    falls_back = bool(vocabulary.fallbacks)
    begun = first_tokens(right.tokenizer, list(texts.values()), falls_back=falls_back)
    for id_, first in zip(texts, begun, strict=True):
        # What a tokenizer makes of a text may be another text.
        if first is not None and texts[id_].encode().startswith(vocabulary.spelled(first)):
            found[id_] = first
    return found


def _difference(theirs: Vocabulary, ours: Vocabulary) -> str | None:
    """The first id that means something else, in words."""
    for id_ in range(max(len(theirs.tokens), len(ours.tokens))):
        left, right = theirs.spelled(id_), ours.spelled(id_)
        if left != right:
            return f"id {id_} is {_shown(left)} to the teacher and {_shown(right)} to the student"
    return None


def _split_difference(teacher: Side, student: Side, texts: Sequence[str]) -> str | None:
    """A text that the same tokens are split into otherwise, in words (never the text itself)."""
    theirs, ours = _split(teacher, texts), _split(student, texts)
    for number, (left, right) in enumerate(zip(theirs, ours, strict=True)):
        if left != right:
            return (
                f"text {number} is split into {len(left)} tokens by the teacher and {len(right)} "
                "by the student, though the tokens are the same"
            )
    return None


def _comparable(teacher: Side, student: Side, texts: Sequence[str]) -> float:
    """The share of the student's tokens that begin where one of the teacher's does."""
    common = total = 0
    for left, right in zip(_split(teacher, texts), _split(student, texts), strict=True):
        starts = set(_starts(left, teacher.vocabulary))
        own = _starts(right, student.vocabulary)
        common += sum(start in starts for start in own)
        total += len(own)
    return common / max(1, total)


def _starts(ids: Sequence[int], vocabulary: Vocabulary) -> list[int]:
    """Where tokens begin, in bytes from the text's end: a tokenizer may put a blank in front."""
    lengths = [len(vocabulary.spelled(id_)) for id_ in ids]
    return list(itertools.accumulate(lengths, initial=-sum(lengths)))[:-1]


def _split(side: Side, texts: Sequence[str]) -> list[list[int]]:
    return split_texts(side.tokenizer, texts)


def _check_sequence(student: Side, texts: Sequence[str]) -> None:
    vocabulary = student.vocabulary
    if vocabulary.end is None:
        raise TrainingError(
            "the student's tokenizer has no end token: it could never learn to stop",
            hint="use an instruct checkpoint",
        )
    for number, (text, ids) in enumerate(zip(texts, _split(student, texts), strict=True)):
        said = b"".join(vocabulary.spelled(id_) for id_ in ids)
        if not said.strip().endswith(text.encode().strip()):
            raise TrainingError(
                f"the student's tokenizer cannot write answer {number} of the task: decoded "
                f"again it has {len(said)} bytes instead of {len(text.encode())}",
                hint="use a student whose tokenizer knows every byte",
            )


def _shown(spelled: bytes) -> str:
    if not spelled:
        return "no token"
    text = spelled.lstrip(b"\xff").decode(errors="backslashreplace")
    return repr(text) if text else "the end of a turn"
