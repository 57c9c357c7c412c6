"""One line of a file of conversations: its turns, its tools and its label, or what is wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ollama_bridge.answer_text import THOUGHT_END, with_thought
from ollama_bridge.data.candidates import Tally
from ollama_bridge.data.chats.advice import NO_CALLS, advice
from ollama_bridge.data.chats.forms import (
    A_LINE,
    find_messages,
    in_our_words,
    is_not_learnt,
    media_of,
)
from ollama_bridge.data.chats.spoken_calls import joined
from ollama_bridge.data.chats.tool_forms import (
    IN_TEXT,
    ToolReader,
    Tools,
    calls_of,
    calls_tool,
    check_order,
    with_results,
    written_call,
)
from ollama_bridge.data.chats.written_tools import notes_on, warnings_on, with_tools_beside
from ollama_bridge.data.cleaning import clean_turn, storable
from ollama_bridge.data.labels import LabelMatcher
from ollama_bridge.data.problems import MAX_LEFT_OUT_SHARE, Problems, numbers_text
from ollama_bridge.data.rows import cell_text
from ollama_bridge.errors import DataError
from ollama_bridge.examples import Example, Message, parse_message
from ollama_bridge.recipe.config import DataSection, TaskSection

SOURCE = "messages"


class LineReader:
    """Reads the lines of a file one by one.

    Attributes:
        matcher: Of a ``classify`` task: tells labels.
        tally: How many were read, and left out.
    """

    def __init__(self, path: Path, data: DataSection, task: TaskSection) -> None:
        is_class = task.kind == "classify"
        self.matcher = (
            LabelMatcher(task.labels, data.label_map, system=task.system) if is_class else None
        )
        self.tally = Tally()
        self._path = path
        self._problems = Problems(path, unit="line")
        self._odd: dict[int, str] = {}
        self._first_odd: Mapping[str, object] = {}
        self._tools, self._forms = ToolReader(), Counter[str]()

    def read(self, number: int, record: Mapping[str, object]) -> Example | None:
        """The conversation of a line; None: it is left out, or something is wrong with it."""
        self.tally.count_read(SOURCE)
        try:
            turns, tools, form = self._conversation(record, where=f"line {number}")
        except DataError as exc:
            self._leave_out(number, record, exc.message.partition(": ")[2])
            return None
        except RecursionError:  # of tools, or of what a call says, that JSON itself still reads
            self._leave_out(number, record, "nested too deeply")
            return None
        label = None
        if self.matcher is not None:
            thought, end, said = turns[-1].content.rpartition(THOUGHT_END)
            label = self.matcher.match(said.strip(), number=number)
            if label is None:
                return None
            answer = f"{thought}{end}\n\n{label}" if end else label
            turns = [*turns[:-1], Message("assistant", answer)]
        elif (given := record.get("label")) is not None:
            if not isinstance(given, str | int | float):
                self._problems.add(number, "label is neither a text nor a number")
                return None
            label = storable(cell_text(given))
        document = _document(record, number, self._problems)
        if document is None:
            return None
        self._forms.update([form] if form else [])
        return Example(f"line-{number}", tuple(turns), document, label, tuple(tools))

    def judge(self) -> list[str]:
        """What is to be said of lines that are left out.

        Raises:
            DataError: they are too many, or something else is wrong; naming every line.
        """
        odd, read = self._odd, self.tally.read.total()
        is_few = len(odd) <= MAX_LEFT_OUT_SHARE * read
        if not is_few:
            for number, reason in odd.items():
                self._problems.add(number, reason)
        hint = A_LINE if is_few else advice(self._path, odd.values(), self._first_odd)
        self._problems.raise_if_any(hint=hint)
        if self.matcher is not None:
            self.matcher.raise_if_unknown(self._path, column=None, unit="line")
        if not odd:
            return []
        self.tally.leave_out(
            SOURCE, "no conversation in turns of user and assistant", count=len(odd)
        )
        lines: dict[str, list[int]] = defaultdict(list)
        for number, reason in odd.items():
            lines[reason].append(number)
        reasons = (f"{reason} (line {numbers_text(numbers)})" for reason, numbers in lines.items())
        found = f"{len(odd)} of {read} conversations ({len(odd) / read:.1%})"
        return [f"{found} are left out: {'; '.join(reasons)}"]

    def notes(self) -> list[str]:
        """What is to be said of the forms of tools that were read."""
        return [*notes_on(self._forms), *self._tools.note()]

    def warnings(self) -> list[str]:
        """What of these may not be meant so."""
        return warnings_on(self._forms)

    def _leave_out(self, number: int, record: Mapping[str, object], reason: str) -> None:
        self._first_odd = self._first_odd or record
        self._odd[number] = reason

    def _conversation(
        self, record: Mapping[str, object], *, where: str
    ) -> tuple[list[Message], Tools, str]:
        """Turns, tools, and the form that these were written in."""
        if self.matcher is not None:  # whoever asks for a label offers no tools
            return _turns(record, (), where=where, is_class=True), (), ""
        line, form = with_tools_beside(record, where=where)
        tools = self._tools.read(line, where=where)
        return _turns(line, tools, where=where, is_class=False), tools, form


def _document(record: Mapping[str, object], number: int, problems: Problems) -> str | None:
    """The group that a line names, else the line by itself; None: it is a problem."""
    own = record.get("group")
    if isinstance(own, float) and own.is_integer():
        own = int(own)  # dataframes write a column of numbers so where one is missing
    if not isinstance(own, str | int | None):
        problems.add(number, "group is neither a text nor a whole number")
        return None
    return f"line-{number}" if own in (None, "") else storable(f"group-{own}")


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
