"""What most texts of a file begin or end with: an instruction, not what one is told apart by.

Two short reviews behind the same long instruction are alike to nine tenths, and no duplicates. Two
messages of one template are: all but a number or a name is the template's.
"""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ollama_bridge.data.candidates import Candidate

# So many characters that this share of the texts, and so many of them, begin with: a file may have
# several instructions. Without one no beginning is so frequent: of the rated snippets, and of
# tweets, it is one in 500.
_MIN_CHARS = 24
_MIN_SHARE = 0.05
_MIN_TEXTS = 10
# It is an instruction where so many of the texts have one. What is in fewer may be one text that
# was sent many times, of which one is enough.
_FRAMED_SHARE = 0.5
# It goes on as long as so many of the texts that begin with it do.
_AGREEING_SHARE = 0.9
# A question of which fewer letters than these are its own is compared whole, as if nothing were
# shared: what differs is a number or a name. Counted in UTF-8, for scripts in which a word is one
# or two letters. A twin of a test text in train would raise the score, and nobody would see it;
# what is left out is counted, warned of where it is much, and kept by near_duplicates: keep.
_TELLING_BYTES = 16
_SHOWN_CHARS = 80

# Whole beginnings by their first characters; of what is left behind these the next, and so on.
_Beginnings = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Frame:
    """What turns of one role begin and end with in most conversations of a file.

    Attributes:
        beginnings: Found from the texts' beginnings on.
        ends: Found in what is left of them, read backwards.
        edges: What most of what is then left begins and ends with, by name: it is too short to be
            found by itself.
        example: The beginning, or end, that most texts have; of several the longest.
        count: How many texts have one.
        total: Of so many.
    """

    beginnings: _Beginnings
    ends: _Beginnings
    edges: Mapping[str, tuple[str, str]]
    example: str
    count: int
    total: int

    def without(self, text: str) -> str:
        """What is a text's own."""
        rest, name = _cut_both(text, self.beginnings, self.ends)
        begin, end = self.edges.get(name, ("", ""))
        return rest.removeprefix(begin).removesuffix(end)

    def name_of(self, text: str) -> str:
        """The first characters of what a text does not have for itself; empty where it has none."""
        return _cut_both(text, self.beginnings, self.ends)[1]


@dataclass(frozen=True)
class Frames:
    """Those of the questions and those of the answers; None: they have none."""

    questions: Frame | None
    answers: Frame | None

    def own_text(self, candidate: Candidate) -> str:
        """What near duplicates of a candidate are recognised by."""
        if self._is_of_template(candidate):
            return candidate.text
        turns = [turn for turn in candidate.example.messages if turn.role != "system"]
        if candidate.is_class and turns[-1].role == "assistant":
            turns = turns[:-1]
        of_role = {"user": self.questions, "assistant": self.answers}
        return "\n".join(_without(of_role.get(turn.role), turn.text) for turn in turns)

    def instruction_of(self, candidate: Candidate) -> str:
        """Of several instructions the one that a candidate has; empty: none."""
        return self.questions.name_of(_first_question(candidate)) if self.questions else ""

    def own_answer(self, candidate: Candidate) -> str:
        """The answer that near duplicates of a candidate have: what is its own of it."""
        if self._is_of_template(candidate):
            return candidate.answer
        return _without(self.answers, candidate.answer)

    def notes(self) -> list[str]:
        """Sentences for the user."""
        found = []
        for what, frame in (("questions", self.questions), ("answers", self.answers)):
            if frame is not None:
                shared = textwrap.shorten(frame.example, _SHOWN_CHARS, placeholder=" ...")
                found.append(
                    f"{frame.count} of {frame.total} {what} begin or end as many do ({shared!r}): "
                    "near duplicates are looked for in the rest, and in the whole where the rest "
                    "of a question is a few letters"
                )
        if self.questions and self.questions.count == self.questions.total:
            found.append("an instruction of all questions can be the system turn: task.system")
        return found

    def _is_of_template(self, candidate: Candidate) -> bool:
        """Whether too little of what is asked is its own to tell it from others."""
        if self.questions is None:
            return False
        asked = [turn.content for turn in candidate.example.messages if turn.role == "user"]
        own = [self.questions.without(text) for text in asked]
        return own != asked and _letter_bytes("".join(own)) < _TELLING_BYTES


def find_frames(candidates: Sequence[Candidate]) -> Frames | None:
    """The frames of what is asked first and of what is answered last; None where there is none."""
    # A question that is asked often is one; an answer to many questions is what makes them alike.
    questions = _find_frame(list(dict.fromkeys(map(_first_question, candidates))))
    answers = _find_frame([one.answer for one in candidates if one.answer])
    return Frames(questions, answers) if questions or answers else None


def _find_frame(texts: list[str]) -> Frame | None:
    beginnings, rests, shared = _find_beginnings(texts)
    ends, rests, shared_ends = _find_beginnings([text[::-1] for text in rests])
    count = sum(len(rest) < len(text) for rest, text in zip(rests, texts, strict=True))
    if not count or count < _FRAMED_SHARE * len(texts):
        return None
    shared.update({end[::-1]: number for end, number in shared_ends.items()})
    example = max(shared, key=lambda one: (shared[one], len(one)))
    edges = _find_edges([_cut_both(text, beginnings, ends) for text in texts])
    return Frame(beginnings, ends, edges, example, count, len(texts))


def _find_edges(cut: Sequence[tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Of rests and their names, what most rests of one name begin and end with: whole words."""
    groups: dict[str, list[str]] = defaultdict(list)
    for rest, name in cut:
        if name:
            groups[name].append(rest)
    found = {}
    for name, rests in groups.items():
        if len(rests) >= _MIN_TEXTS:
            begin = _whole_words(_shared_beginning(rests))
            rests = [rest.removeprefix(begin)[::-1] for rest in rests]
            found[name] = (begin, _whole_words(_shared_beginning(rests))[::-1])
    return found


def _find_beginnings(texts: list[str]) -> tuple[_Beginnings, list[str], Counter[str]]:
    """The beginnings that many texts share, what is left of each text, and how many have which."""
    least = max(_MIN_TEXTS, _MIN_SHARE * len(texts))
    found: list[dict[str, str]] = []
    shared: Counter[str] = Counter()
    while True:
        alike: dict[str, list[str]] = defaultdict(list)
        for text in texts:
            if len(text) >= _MIN_CHARS:
                alike[text[:_MIN_CHARS]].append(text)
        level = {
            head: _shared_beginning(group) for head, group in alike.items() if len(group) >= least
        }
        if not level:
            return found, texts, shared
        found.append(level)
        shared.update({whole: len(alike[head]) for head, whole in level.items()})
        texts = [_cut(text, [level])[0] for text in texts]


def _shared_beginning(texts: list[str]) -> str:
    """The longest that most of some texts begin with."""
    texts = sorted(texts)
    more = int(_AGREEING_SHARE * (len(texts) - 1))
    return max(map(_common_beginning, texts, texts[more:]), key=len)


def _cut(text: str, beginnings: _Beginnings) -> tuple[str, list[str]]:
    """What is left of a text, and the first characters of what is not."""
    heads = []
    for level in beginnings:
        head = text[:_MIN_CHARS]
        if whole := level.get(head):
            heads.append(head)
            text = text[_end_of_word(text, len(_common_beginning(text, whole))) :]
    return text, heads


def _cut_both(text: str, beginnings: _Beginnings, ends: _Beginnings) -> tuple[str, str]:
    """What is left of a text, and the name of what is not."""
    rest, heads = _cut(text, beginnings)
    rest, tails = _cut(rest[::-1], ends)
    return rest[::-1], "\n".join(heads + tails)


def _whole_words(text: str) -> str:
    """A text without its last letters and digits: what follows may belong to them."""
    return text[: next((n for n in range(len(text), 0, -1) if not text[n - 1].isalnum()), 0)]


def _common_beginning(text: str, other: str) -> str:
    if text.startswith(other):
        return other
    pairs = enumerate(zip(text, other, strict=False))
    return text[: next((place for place, (left, right) in pairs if left != right), len(text))]


def _end_of_word(text: str, place: int) -> int:
    """The last end of a word up to a place; the place itself where there is none."""
    end = place
    while 0 < end < len(text) and text[end - 1].isalnum() and text[end].isalnum():
        end -= 1
    return end or place


def _letter_bytes(text: str) -> int:
    return sum(len(letter.encode()) for letter in text if letter.isalpha())


def _first_question(candidate: Candidate) -> str:
    return next((turn.content for turn in candidate.example.messages if turn.role == "user"), "")


def _without(frame: Frame | None, text: str) -> str:
    return frame.without(text) if frame else text
