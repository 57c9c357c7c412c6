"""A user's JSONL of conversations, in the form that chat APIs use or another (``chat_forms``).

A conversation that is not one of user and assistant in turn, tools and their results apart, is left
out, counted and noted with its line while these are at most 5 % of the file; beyond that it is
refused, all lines at once. So is what is wrong with a line otherwise.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ollama_bridge.answer_text import THOUGHT_END, with_thought
from ollama_bridge.data.candidates import Candidate, Collected, Split, Tally
from ollama_bridge.data.chat_advice import NO_CALLS, advice
from ollama_bridge.data.chat_forms import (
    A_LINE,
    find_messages,
    in_our_words,
    is_not_learnt,
    media_of,
)
from ollama_bridge.data.cleaning import clean_turn, storable, text_key
from ollama_bridge.data.documents import Documents
from ollama_bridge.data.labels import LabelMatcher
from ollama_bridge.data.own_splits import advice_on_column, read_splits
from ollama_bridge.data.problems import (
    MAX_LEFT_OUT_SHARE,
    Problems,
    numbers_text,
    read_text,
)
from ollama_bridge.data.rows import cell_text, read_json_lines
from ollama_bridge.data.spoken_calls import joined
from ollama_bridge.data.tool_forms import (
    IN_TEXT,
    ToolReader,
    Tools,
    calls_of,
    calls_tool,
    check_order,
    with_results,
    written_call,
)
from ollama_bridge.data.written_tools import notes_on, warnings_on, with_tools_beside
from ollama_bridge.digests import canonical_json, digest_text
from ollama_bridge.errors import DataError
from ollama_bridge.examples import Example, Message, parse_message
from ollama_bridge.recipe.config import DataSection, TaskSection

_SOURCE = "messages"
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
    matcher = (
        LabelMatcher(task.labels, data.label_map, system=task.system)
        if task.kind == "classify"
        else None
    )
    problems = Problems(path, unit="line")
    odd: dict[int, str] = {}
    tally = Tally()
    candidates = []
    asked: list[list[str]] = []
    documents = Documents()
    reader, forms = ToolReader(), Counter[str]()
    records = list(read_json_lines(path, read_text(path)))
    splits: Mapping[int, Split] = {}
    if data.split_col:
        values = ((number, record.get(data.split_col)) for number, record in records)
        splits = read_splits(path, values, column=data.split_col, unit="line")
    for number, record in records:
        tally.count_read(_SOURCE)
        try:
            where = f"line {number}"
            line: Mapping[str, object] = record
            form, tools = "", Tools()
            if matcher is None:  # whoever asks for a label offers no tools
                line, form = with_tools_beside(record, where=where)
                tools = reader.read(line, where=where)
            turns = _turns(line, tools, where=where, is_class=matcher is not None)
        except DataError as exc:
            odd[number] = exc.message.partition(": ")[2]
            continue
        except RecursionError:  # of tools, or of what a call says, that JSON itself still reads
            odd[number] = "nested too deeply"
            continue
        label = None
        if matcher is not None:
            thought, end, said = turns[-1].content.rpartition(THOUGHT_END)
            label = matcher.match(said.strip(), number=number)
            if label is None:
                continue
            answer = f"{thought}{end}\n\n{label}" if end else label
            turns = [*turns[:-1], Message("assistant", answer)]
        elif (given := record.get("label")) is not None:
            if not isinstance(given, str | int | float):
                problems.add(number, "label is neither a text nor a number")
                continue
            label = storable(cell_text(given))
        document = _document(record, number, problems)
        if document is None:
            continue
        if matcher is not None:
            documents.join(
                document, *(f"question-{text_key(one)}" for one in _labelled(turns, matcher))
            )
        asked.append([text_key(turn.content) for turn in turns if turn.role == "user"])
        example = Example(f"line-{number}", tuple(turns), document, label, tuple(tools))
        candidate = _candidate(example, task)
        forms.update([form] if form else [])
        candidates.append(replace(candidate, split=splits.get(number)))
    if matcher is None:
        for candidate, first in zip(candidates, _first_questions(asked), strict=True):
            documents.join(candidate.example.group, "question-" + "\n".join(first))
    candidates = [candidate.in_document_of(documents) for candidate in candidates]
    odd_ones = (record for number, record in records if number in odd)
    notes = _judge_odd(odd, tally, problems, path, first=next(odd_ones, {}))
    if matcher is not None:
        matcher.raise_if_unknown(path, column=None, unit="line")
    if not candidates:
        raise DataError(f"{path} has no rows")
    notes += [*notes_on(forms), *reader.note()]
    open_ended = sum(one.example.is_open for one in candidates)
    if open_ended:
        notes.append(
            f"{open_ended} conversation(s) end with the user's turn, or a tool's result: the "
            "answers before it are learnt, one to it only where the teacher writes it "
            "(teacher.answers: daemon)"
        )
    if matcher is None:
        notes += _large_document(candidates)
    lines = [record for _, record in records]
    names = dict.fromkeys(name for line in lines for name in line)
    unread = None if data.split_col else advice_on_column(names, lines, read=())
    warnings = [*warnings_on(forms), *filter(None, [unread])]
    return Collected(tuple(candidates), tally, tuple(notes), tuple(warnings))


def _document(record: Mapping[str, object], number: int, problems: Problems) -> str | None:
    """The group that a line names, else the line by itself; None: it is a problem."""
    own = record.get("group")
    if isinstance(own, float) and own.is_integer():
        own = int(own)  # dataframes write a column of numbers so where one is missing
    if not isinstance(own, str | int | None):
        problems.add(number, "group is neither a text nor a whole number")
        return None
    return f"line-{number}" if own in (None, "") else storable(f"group-{own}")


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
        _SOURCE,
        "\n".join(spoken[:-1] if is_class else spoken),
        is_class=is_class,
        instruction=instruction,
    )


def _judge_odd(
    odd: Mapping[int, str],
    tally: Tally,
    problems: Problems,
    path: Path,
    *,
    first: Mapping[str, object],
) -> list[str]:
    """Count what is left out, or raise: it is too much, or something else is wrong."""
    read = tally.read.total()
    is_few = len(odd) <= MAX_LEFT_OUT_SHARE * read
    if not is_few:
        for number, reason in odd.items():
            problems.add(number, reason)
    hint = A_LINE if is_few else advice(path, odd.values(), first)
    problems.raise_if_any(hint=hint)
    if not odd:
        return []
    tally.leave_out(_SOURCE, "no conversation in turns of user and assistant", count=len(odd))
    lines: dict[str, list[int]] = defaultdict(list)
    for number, reason in odd.items():
        lines[reason].append(number)
    reasons = (f"{reason} (line {numbers_text(numbers)})" for reason, numbers in lines.items())
    found = f"{len(odd)} of {read} conversations ({len(odd) / read:.1%})"
    return [f"{found} are left out: {'; '.join(reasons)}"]


def _large_document(candidates: Sequence[Candidate]) -> list[str]:
    ((_, count),) = Counter(one.example.group for one in candidates).most_common(1)
    if count == 1 or count <= _LARGE_SHARE * len(candidates):
        return []
    return [
        f"{count} of {len(candidates)} conversations begin with the same question, or belong to "
        "one group: they stay in one split"
    ]


def _turns(
    record: Mapping[str, object],
    tools: Sequence[Mapping[str, Any]],
    *,
    where: str,
    is_class: bool,
) -> list[Message]:
    messages = joined(find_messages(record) or [])
    if not messages:
        raise DataError(f"{where}: not a list of messages")
    if media := media_of(record):
        raise DataError(f"{where}: has {media}: only texts are learnt")
    turns, items = [], []
    for place, item in enumerate(messages, start=1):
        if is_class and calls_tool(item):
            raise DataError(f"{where}: message {place} calls a tool: {NO_CALLS}")
        if media := media_of(item):
            raise DataError(f"{where}: message {place} has {media}: only texts are learnt")
        turn = parse_message(in_our_words(item), where=where)
        calls = calls_of(item, tools, where=f"{where}: message {place}")
        if calls and turn.role != "assistant":
            raise DataError(f"{where}: message {place} ({turn.role}) calls a tool")
        turn = Message(turn.role, clean_turn(turn.content), calls)
        if tools and turn.role == "assistant" and (mark := written_call(turn.content)):
            raise DataError(f"{where}: message {place} {IN_TEXT} ({mark})")
        if turn.role == "assistant" and is_not_learnt(item):
            raise DataError(f"{where}: message {place} has weight 0, but each answer is learnt")
        if not turn.content and not calls and turn.role != "tool":
            if turn.role == "system" and place == 1:
                continue  # as good as none
            raise DataError(f"{where}: message {place} ({turn.role}) is empty")
        turns.append(_with_thinking(turn, item, where=where))
        items.append(item)
    first = 1 + len(messages) - len(turns)
    turns = with_results(turns, items, first=first, where=where)
    spoken = [turn for place, turn in enumerate(turns) if place or turn.role != "system"]
    check_order(spoken, where=where)
    if not spoken:
        raise DataError(f"{where}: only a system turn")
    if is_class and spoken[-1].role != "assistant":
        raise DataError(f"{where}: a classify task needs the label as the last, assistant turn")
    return turns


def _with_thinking(turn: Message, item: object, *, where: str) -> Message:
    """The turn with what Ollama's API (or an OpenAI-compatible one) gives as its thinking."""
    said = item if isinstance(item, dict) else {}
    thinking = said.get("thinking") or said.get("reasoning_content")
    if thinking is None or thinking == "":
        return turn
    if turn.role != "assistant" or not isinstance(thinking, str):
        raise DataError(f"{where}: thinking has to be text, in an assistant message")
    return replace(turn, content=with_thought(turn.content, clean_turn(thinking)))


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
