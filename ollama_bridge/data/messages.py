"""A user's JSONL of ``messages``: conversations in the form that chat APIs use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ollama_bridge.answer_text import THOUGHT_END, with_thought
from ollama_bridge.config import DataSection, TaskSection
from ollama_bridge.data.candidates import Candidate, Collected, Tally
from ollama_bridge.data.cleaning import clean_turn, text_key
from ollama_bridge.data.documents import Documents
from ollama_bridge.data.labels import LabelMatcher
from ollama_bridge.data.problems import Problems, read_text
from ollama_bridge.data.rows import read_json_lines
from ollama_bridge.errors import DataError
from ollama_bridge.examples import Example, Message, parse_message

_SOURCE = "messages"


def collect_messages(path: Path, data: DataSection, task: TaskSection) -> Collected:
    """Read conversations; each begins with the task's system turn unless it has its own.

    A conversation may end on the user only where answers are still to be written, so not in a
    ``classify`` task, whose last answer is the label. In a ``reply`` task a ``label`` (a field of
    the line) is the right answer to its last question, such as the result of a sum. Conversations
    that begin with the same question, or are of the same ``group`` (another field), stay in one
    split: every answer is learnt, so what one of them is scored on may be an early turn of another.

    Raises:
        DataError: naming file and every bad line.
    """
    matcher = LabelMatcher(task.labels, data.label_map) if task.kind == "classify" else None
    problems = Problems(path, unit="line")
    tally = Tally()
    candidates = []
    documents = Documents()
    for number, record in read_json_lines(path, read_text(path)):
        tally.count_read(_SOURCE)
        try:
            turns = _turns(record, where=f"line {number}")
        except DataError as exc:
            problems.add(number, exc.message.partition(": ")[2])
            continue
        label = None
        if matcher is not None:
            if turns[-1].role != "assistant":
                problems.add(number, "a classify task needs the label as the last, assistant turn")
                continue
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
            label = str(given)
        if task.system and turns[0].role != "system":
            turns.insert(0, Message("system", task.system))
        prompt, whole = _texts(turns)
        own = record.get("group")
        document = f"group-{own}" if isinstance(own, str | int) else f"line-{number}"
        documents.join(document, f"question-{text_key(_first_question(turns))}")
        example = Example(f"line-{number}", tuple(turns), document, label)
        is_class = matcher is not None
        text = prompt if is_class else whole
        candidates.append(Candidate(example, _SOURCE, text, is_class=is_class))
    candidates = [candidate.in_document_of(documents) for candidate in candidates]
    problems.raise_if_any(
        hint='a line looks like {"messages": [{"role": "user", "content": "..."}, '
        '{"role": "assistant", "content": "..."}]}'
    )
    if matcher is not None:
        matcher.raise_if_unknown(path, column="messages", unit="line")
    if not candidates:
        raise DataError(f"{path} has no rows")
    open_ended = sum(one.example.messages[-1].role == "user" for one in candidates)
    notes = (f"{open_ended} conversation(s) end on the user: answers are to be written",)
    return Collected(tuple(candidates), tally, notes if open_ended else ())


def _turns(record: dict[str, object], *, where: str) -> list[Message]:
    messages = record.get("messages")
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{where}: no list of messages")
    turns = []
    for place, item in enumerate(messages, start=1):
        turn = parse_message(item, where=where)
        turn = Message(turn.role, clean_turn(turn.content))
        if not turn.content:
            raise DataError(f"{where}: message {place} ({turn.role}) is empty")
        turns.append(_with_thinking(turn, item, where=where))
    spoken = turns[1:] if turns[0].role == "system" else turns
    for place, turn in enumerate(spoken):
        expected = "user" if place % 2 == 0 else "assistant"
        if turn.role != expected:
            raise DataError(
                f"{where}: turn {place + 1} is {turn.role}, expected {expected} "
                "(turns alternate, the user begins, a system turn comes first)"
            )
    if not spoken:
        raise DataError(f"{where}: only a system turn")
    return turns


def _with_thinking(turn: Message, item: object, *, where: str) -> Message:
    """The turn with what Ollama's API (or an OpenAI-compatible one) gives as its thinking."""
    said = item if isinstance(item, dict) else {}
    thinking = said.get("thinking") or said.get("reasoning_content")
    if thinking is None or thinking == "":
        return turn
    if turn.role != "assistant" or not isinstance(thinking, str):
        raise DataError(f"{where}: thinking is a text of an assistant message")
    return Message(turn.role, with_thought(turn.content, clean_turn(thinking)))


def _first_question(turns: Sequence[Message]) -> str:
    return next(turn.content for turn in turns if turn.role == "user")


def _texts(turns: Sequence[Message]) -> tuple[str, str]:
    """What was said before the last answer, and all that was said."""
    spoken = [turn.content for turn in turns if turn.role != "system"]
    prompt = spoken[:-1] if turns[-1].role == "assistant" else spoken
    return "\n".join(prompt), "\n".join(spoken)
