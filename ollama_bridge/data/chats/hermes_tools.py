"""Reads tools, calls and results that stand in the texts, in the tags of Hermes and of Qwen.

Hermes's function calling standard (NousResearch's hermes-function-calling-v1): the system turn has
the tools inside of ``<tools>``, an answer its calls inside of ``<tool_call>``, a turn of the tool
its results inside of ``<tool_response>``. Qwen's templates write the same, with results in a turn
of the user's. A line of it becomes one with tools, calls and results beside the texts, for each
student's chat template writes them in its own way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ollama_bridge.answer_text import THOUGHT_END
from ollama_bridge.data.chats.forms import LISTS, SPEAKERS, find_messages, in_our_words, saying
from ollama_bridge.data.chats.hermes_prompt import without_instructions
from ollama_bridge.data.chats.tool_forms import DEFINITIONS, ToolReader, calls_tool
from ollama_bridge.data.chats.written_calls import read_calls
from ollama_bridge.data.chats.written_values import read_value, read_values
from ollama_bridge.errors import DataError

A_TAGGED_CALL = (
    'calls in tags end an answer, <tool_call>{"name": "...", "arguments": {...}}</tool_call>, and '
    "each result is in a turn of the tool, <tool_response>...</tool_response>"
)
# Of every reason that is a tag's, by which that advice is found.
_OF_A_TAG = re.compile(r"</?tool_(?:call|response)>")

_TOOLS = re.compile(
    r"(?:Here are the available tools:\s*)?<tools>(?=\s*[\[{])(.*?)</tools>\.?", re.DOTALL
)
_OPEN_TOOLS = re.compile(r"<tools>\s*[\[{]")
_TAGS = {
    name: (re.compile(rf"<{name}>(.*?)</{name}>", re.DOTALL), re.compile(rf"</?{name}>"))
    for name in ("tool_call", "tool_response")
}
_OF_A_RESULT = {"name", "content", "tool_call_id"}
_NAMED = re.compile(r"\{\s*['\"]name['\"]\s*:\s*['\"]([^'\"]+)['\"]")
_NAMES_OF_A_CALL = ("name", "tool_name", "tool_call_id")  # of whose result it is
_MESSAGE_KEYS = (*LISTS, "prompt", "completion", "system", *DEFINITIONS)


def is_of_a_tag(reason: str) -> bool:
    """Whether a line was refused for what stands in the tags of a call, or of a result."""
    return _OF_A_TAG.search(reason) is not None


def read_tags(record: Mapping[str, object], *, where: str) -> Mapping[str, object] | None:
    """The line in the form that chat APIs use; None: it is not of this form.

    Raises:
        DataError: naming ``where``, the message and what of it cannot be read.
    """
    turns = [_Turn(item) for item in find_messages(record) or []]
    system = turns[0].text if turns and turns[0].role == "system" else ""
    is_inside = _OPEN_TOOLS.search(system) is not None
    beside = {name: record[name] for name in DEFINITIONS if record.get(name)}
    if not is_inside and not (beside and any(turn.tag for turn in turns)):
        return None
    if is_inside:
        tools, system = _tools_of(system, where=where)
        if beside and _by_name(beside, where) != _by_name({"tools": tools}, where):
            raise DataError(f"{where}: its system turn offers other tools than the line")
        beside = {"tools": tools}
    offered = _by_name(beside, where)
    found: list[object] = []
    for place, turn in enumerate(turns, start=1):
        at = f"{where}: message {place}"
        if place == 1 and turn.role == "system":
            content = without_instructions(system, where=where)
            found.append(saying(turn.item, content, role="system"))
        elif turn.tag == "tool_call":
            found.append(_answer(turn, where=at))
        elif turn.tag == "tool_response":
            found += _results(turn, offered, where=at)
        else:
            found.append(turn.item)
    _check_results(found, where=where)
    kept = {name: value for name, value in record.items() if name not in _MESSAGE_KEYS}
    return {**kept, **beside, "messages": found}


def calls_without_tools(record: Mapping[str, object]) -> bool:
    """Whether a line calls in tags, but offers no tools: its calls are texts as any other."""
    is_offered = any(map(record.get, DEFINITIONS))
    return not is_offered and any(
        _Turn(item).tag == "tool_call" for item in find_messages(record) or []
    )


class _Turn:
    """A message, and which tag its text has.

    Attributes:
        item: As the line has it, but for the name of its role.
        role: Of the four; another or None where it is no message.
        text: Its content; empty where that is no text.
        tag: ``tool_call`` of an answer, ``tool_response`` of a result, or empty.
    """

    def __init__(self, item: object) -> None:
        if isinstance(item, dict) and (role := SPEAKERS.get(str(item.get("role")))):
            item = {**item, "role": role}
        self.item = item
        said = in_our_words(item)
        said = said if isinstance(said, dict) else {}
        self.role, content = said.get("role"), said.get("content")
        self.text = content if isinstance(content, str) else ""
        self.tag = ""
        if self.role == "assistant" and not calls_tool(item):
            # A thought may speak of them.
            self.tag = _tag_in(self.text.rpartition(THOUGHT_END)[2], "tool_call")
        elif self.role == "tool":
            self.tag = _tag_in(self.text, "tool_response")
        elif self.role == "user" and self.text.lstrip().startswith("<tool_response>"):
            self.tag = "tool_response"


def _tag_in(text: str, name: str) -> str:
    return name if _TAGS[name][1].search(text) else ""


def _tools_of(system: str, *, where: str) -> tuple[list[Any], str]:
    """The tools of a system turn, and what it says besides.

    Raises:
        DataError: it has several lists of them, or one that is cut or no JSON.
    """
    blocks = list(_TOOLS.finditer(system))
    if len(blocks) != len(_OPEN_TOOLS.findall(system)):
        raise DataError(f"{where}: its system turn has <tools> without </tools>")
    if len(blocks) > 1:
        raise DataError(f"{where}: its system turn has several lists of <tools>")
    (block,) = blocks
    try:
        tools = read_values(block[1])
    except ValueError as exc:
        raise DataError(f"{where}: inside of <tools> is {exc}") from exc
    return tools, f"{system[: block.start()]}\n{system[block.end() :]}"


def _by_name(beside: Mapping[str, object], where: str) -> dict[str, Any]:
    return {one["function"]["name"]: one for one in ToolReader().read(beside, where=where)}


def _answer(turn: _Turn, *, where: str) -> dict[str, object]:
    """An answer with its calls beside what it says in front of them.

    Raises:
        DataError: a tag has no other, a call cannot be read, or there is text behind one.
    """
    thought, end, said = turn.text.rpartition(THOUGHT_END)
    before, *parts = _split(said, "tool_call", where=where)
    if any(part.strip() for part in parts[1::2]):
        raise DataError(f"{where} has text behind a <tool_call>, where no template writes it")
    calls = []
    for number, body in enumerate(parts[::2], start=1):
        calls += read_calls(body, where=f"{where}: <tool_call> {number}")
    content = f"{thought}{end}{before}"
    return saying(turn.item, content, role="assistant", beside={"tool_calls": calls})


def _results(turn: _Turn, offered: Collection[str], *, where: str) -> list[dict[str, object]]:
    """The results of a turn, each a message; with the name of its call, where it says that.

    Raises:
        DataError: a tag has no other, there is text beside them, or a name but no JSON.
    """
    before, *parts = _split(turn.text, "tool_response", where=where)
    if any(text.strip() for text in (before, *parts[1::2])):
        raise DataError(f"{where} has text beside its <tool_response>")
    found = []
    for number, body in enumerate(parts[::2], start=1):
        content, of = _result(body.strip(), offered, where=f"{where}: <tool_response> {number}")
        found.append(saying(turn.item, content, role="tool", beside=of))
    return found


def _result(text: str, offered: Collection[str], *, where: str) -> tuple[str, dict[str, str]]:
    """What a tool gave, and of which call it is.

    Hermes's standard has an object around it that says so.
    """
    if not text.startswith("{"):
        return text, {}
    try:
        value = read_value(text)
    except ValueError as exc:
        if (named := _NAMED.match(text)) and named[1] in offered:
            raise DataError(f"{where} is {exc}") from exc
        return text, {}
    is_wrapped = {"name", "content"} <= value.keys() <= _OF_A_RESULT
    if not is_wrapped or value["name"] not in list(offered):
        return text, {}
    content = value.pop("content")
    if not isinstance(content, str):
        content = json.dumps(content, ensure_ascii=False)
    return content, {key: one for key, one in value.items() if isinstance(one, str)}


def _split(text: str, name: str, *, where: str) -> list[str]:
    """Text in front of a tag, what is inside of it, text behind it, and so on.

    Raises:
        DataError: a tag has no other.
    """
    pair, either = _TAGS[name]
    parts = pair.split(text)
    # Also inside of a pair: where one is not closed, the next one's end is taken for its own.
    alone = (either.search(part) for part in parts)
    if tag := next(filter(None, alone), None):
        other = f"<{name}>" if tag[0].startswith("</") else f"</{name}>"
        raise DataError(f"{where} has {tag[0]} without {other}")
    return parts


def _check_results(messages: Sequence[object], *, where: str) -> None:
    """Results that name no call belong to the calls in their order: there are as many.

    Raises:
        DataError: there are not.
    """
    calls: list[Any] = []
    results: list[Mapping[str, object]] = []
    for item in (*messages, None):
        said = item if isinstance(item, dict) else {}
        if _Turn(item).role == "tool":
            results.append(said)
            continue
        are_named = all(any(map(one.get, _NAMES_OF_A_CALL)) for one in results)
        if calls and results and not are_named and len(results) != len(calls):
            raise DataError(
                f"{where}: results that do not say of which call they are: {len(results)}, "
                f"<tool_response>, of {len(calls)} calls"
            )
        given = said.get("tool_calls")  # of one that stood beside its text, it may be a text
        calls, results = given if isinstance(given, list) else [], []
