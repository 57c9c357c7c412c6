"""A user's JSONL of conversations, in the form that chat APIs use or another (``forms``).

A conversation that is not one of user and assistant in turn, tools and their results apart, is left
out, counted and noted with its line while these are at most 5 % of the file; beyond that it is
refused, all lines at once. So is what is wrong with a line otherwise.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ollama_bridge.answer_text import THOUGHT_END
from ollama_bridge.data.candidates import Candidate, Collected, Split
from ollama_bridge.data.chats.lines import SOURCE, LineReader
from ollama_bridge.data.cleaning import text_key
from ollama_bridge.data.documents import Documents
from ollama_bridge.data.labels import LabelMatcher
from ollama_bridge.data.own_splits import advice_on_column, read_splits
from ollama_bridge.data.problems import read_text
from ollama_bridge.data.rows import read_json_lines
from ollama_bridge.digests import canonical_json, digest_text
from ollama_bridge.errors import DataError
from ollama_bridge.examples import Example, Message
from ollama_bridge.recipe.config import DataSection, TaskSection

# A document of more than this share of a file does not fit into what is held out of it.
_LARGE_SHARE = 0.1
_MIN_WAYS_ON = 10


def collect_messages(path: Path, data: DataSection, task: TaskSection) -> Collected:
    """Read conversations; each begins with the task's system turn unless it has its own.

    A conversation may end on the user only where answers are still to be written, so not in a
    ``classify`` task, whose last answer is the label. In a ``reply`` task a ``label`` (a field of
    the line) is the right answer to its last question, such as the result of a sum. Conversations
    that have learnt and scored answers in common (``_first_questions``, ``_labelled``), or are of
    the same ``group`` (another field), stay in one split. Which one, a field of the line may say
    (``data.split_col``).

    Raises:
        DataError: naming file and every bad line.
    """
    reader = LineReader(path, data, task)
    records = list(read_json_lines(path, read_text(path)))
    splits: Mapping[int, Split] = {}
    if data.split_col:
        values = ((number, record.get(data.split_col)) for number, record in records)
        splits = read_splits(path, values, column=data.split_col, unit="line")
    candidates = []
    for number, record in records:
        example = reader.read(number, record)
        if example is not None:
            candidates.append(replace(_candidate(example, task), split=splits.get(number)))
    documents = _documents([one.example for one in candidates], reader.matcher)
    candidates = [candidate.in_document_of(documents) for candidate in candidates]
    notes = reader.judge()
    if not candidates:
        raise DataError(f"{path} has no rows")
    notes += [*reader.notes(), *_open_ended(candidates)]
    if reader.matcher is None:
        notes += _large_document(candidates)
    lines = [record for _, record in records]
    names = dict.fromkeys(name for line in lines for name in line)
    unread = None if data.split_col else advice_on_column(names, lines, read=())
    warnings = [*reader.warnings(), *filter(None, [unread])]
    return Collected(tuple(candidates), reader.tally, tuple(notes), tuple(warnings))


def _candidate(example: Example, task: TaskSection) -> Candidate:
    """A conversation that begins with the task's system turn unless it has its own."""
    turns = example.messages
    spoken = [turn.text for turn in turns if turn.role != "system"]
    own_system = turns[0].content if turns[0].role == "system" else task.system
    if task.system and turns[0].role != "system":
        turns = (Message("system", task.system), *turns)
    is_class = task.kind == "classify"
    instruction = "" if own_system == task.system else own_system
    if example.tools:  # what may be called decides what is right, in whatever order it stands
        texts = sorted(map(canonical_json, map(dict, example.tools)))
        instruction = "\n".join([instruction, digest_text("\n".join(texts))])
    return Candidate(
        replace(example, messages=turns),
        SOURCE,
        "\n".join(spoken[:-1] if is_class else spoken),
        is_class=is_class,
        instruction=instruction,
    )


def _open_ended(candidates: Sequence[Candidate]) -> list[str]:
    count = sum(one.example.is_open for one in candidates)
    if not count:
        return []
    return [
        f"{count} conversation(s) end with the user's turn, or a tool's result: the "
        "answers before it are learnt, one to it only where the teacher writes it "
        "(teacher.answers: daemon)"
    ]


def _large_document(candidates: Sequence[Candidate]) -> list[str]:
    ((_, count),) = Counter(one.example.group for one in candidates).most_common(1)
    if count == 1 or count <= _LARGE_SHARE * len(candidates):
        return []
    return [
        f"{count} of {len(candidates)} conversations begin with the same question, or belong to "
        "one group: they stay in one split"
    ]


def _documents(examples: Sequence[Example], matcher: LabelMatcher | None) -> Documents:
    """Which conversations stay in one split."""
    documents = Documents()
    if matcher is not None:
        for one in examples:
            known = (f"question-{text_key(text)}" for text in _labelled(one.messages, matcher))
            documents.join(one.group, *known)
        return documents
    asked = [
        [text_key(turn.content) for turn in one.messages if turn.role == "user"] for one in examples
    ]
    for one, first in zip(examples, _first_questions(asked), strict=True):
        documents.join(one.group, "question-" + "\n".join(first))
    return documents


def _first_questions(asked: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """What every conversation of free text must have in common with no other split.

    Its first question: every answer is learnt, so what one is scored on may be an early turn of
    another. But what a tenth of a file goes on from with questions of their own ("Hi", a button's
    text) says nothing: there the next question belongs to it.
    """
    least = max(_MIN_WAYS_ON, _LARGE_SHARE * len(asked))
    firsts = [tuple(questions[:1]) for questions in asked]
    while True:
        ways_on: dict[tuple[str, ...], set[str]] = defaultdict(set)
        for first, questions in zip(firsts, asked, strict=True):
            ways_on[first].update(questions[len(first) : len(first) + 1])
        openings = {first for first, following in ways_on.items() if len(following) > least}
        if not openings:
            return firsts
        firsts = [
            tuple(questions[: len(first) + 1]) if first in openings else first
            for first, questions in zip(firsts, asked, strict=True)
        ]


def _labelled(turns: Sequence[Message], matcher: LabelMatcher) -> Iterator[str]:
    """What a conversation of a classification must have in common with no other split.

    What stands before each label: the last answer alone is scored, and "Hi" or an instruction
    begins many that are not alike.
    """
    spoken = [turn.content for turn in turns if turn.role != "system"]
    for place in range(1, len(spoken), 2):
        if matcher.label_of(spoken[place].rpartition(THOUGHT_END)[2]):
            yield "\n".join(spoken[:place])
