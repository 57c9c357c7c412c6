"""Reads ToolACE's lines: functions as JSON in the system turn, calls as Python writes them.

An answer is ``[Get Weather(city="Oslo", days=3), clock()]``, whose names may have blanks, and a
turn of the tool the JSON of ``[{"name": "Get Weather", "results": ...}, ...]``. The prompt of
Llama 3.2's calls is the same.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from ollama_bridge.data.chats.forms import LISTS, find_messages, in_our_words, saying
from ollama_bridge.data.chats.tool_forms import DEFINITIONS, NOT_OFFERED, ToolReader, calls_tool
from ollama_bridge.data.chats.written_values import (
    has_joined_texts,
    is_json,
    read_value,
    read_values,
)
from ollama_bridge.errors import DataError

A_TOOLACE_CALL = (
    "an answer that calls is [name(parameter=value, ...), ...] alone, with values as Python or "
    'JSON writes them, and the turn of the tool behind it [{"name": "...", "results": ...}, ...]'
)
# Of every reason, by which that advice is found.
_OF_BRACKETS = "in brackets"

_LEAD_IN = (
    "You are an expert in composing functions. You are given a question and a set of possible "
    "functions. Based on the question, you will need to make one or more function/tool calls to "
    "achieve the purpose. If none of the functions? can be used, point it out. If the given "
    "question lacks the parameters required by the function, also point it out. You should only "
    "return the function calls? in tools call sections."
)
_SYSTEM = re.compile(
    rf"\s*(?:{_LEAD_IN})?(.*?)Here is a list of functions in JSON format that you can invoke: "
    r"(\[.*\]) \.? Should you decide to return the function call\(s\)[.,]? Put it in the format of "
    r"\[func1\(params_name=params_value, params_name2=params_value2\.\.\.\), func2\(params\)\] NO "
    r"other text MUST be included\.?".replace(" ", r"\s*"),
    re.DOTALL,
)
_BEGIN = re.compile(r"\[\s*([^\[\]()=,]+?)\s*\(")
# What brackets are counted between: texts in quotes, in which they say nothing.
_PIECE = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[()\[\]{}]""", re.DOTALL)
_SHOWN_CHARS = 40
_WORDS_OF_JSON = {"true": True, "false": False, "null": None}


def is_of_brackets(reason: str) -> bool:
    """Whether a line was refused for what stands in the brackets of calls, or of their results."""
    return _OF_BRACKETS in reason


def read_toolace(record: Mapping[str, object], *, where: str) -> Mapping[str, object] | None:
    """The line in the form that chat APIs use; None: it is not of this form.

    Raises:
        DataError: naming ``where``, the message and what of it cannot be read.
    """
    messages = find_messages(record) or []
    role, text = _said(messages[0]) if messages else ("", "")
    found = _SYSTEM.match(text) if role == "system" else None
    if found is None or any(map(record.get, DEFINITIONS)):
        return None
    try:
        tools = read_values(found[2])
    except ValueError as exc:
        raise DataError(f"{where}: its list of functions is {exc}") from exc
    offered = [one["function"]["name"] for one in ToolReader().read({"tools": tools}, where=where)]
    system = f"{found[1].strip()}\n{text[found.end() :]}".strip()
    told: list[object] = [saying(messages[0], system, role="system")]
    names: list[str] = []  # of the calls that wait for their results
    for place, item in enumerate(messages[1:], start=2):
        at = f"{where}: message {place}"
        role, text = _said(item)
        if role == "assistant" and not calls_tool(item):
            calls = _calls(text.strip(), offered, where=at)
            names = [call["function"]["name"] for call in calls]
            told.append(
                saying(item, "", role=role, beside={"tool_calls": calls}) if calls else item
            )
        elif role == "tool":
            told += _results(item, text, names, where=at)
        else:
            told.append(item)
    kept = {name: value for name, value in record.items() if name not in (*LISTS, "system")}
    return {**kept, "tools": tools, "messages": told}


def _said(item: object) -> tuple[str, str]:
    said = in_our_words(item)
    if not isinstance(said, dict) or not isinstance(said["content"], str):
        return "", ""
    return str(said["role"]), said["content"]


def _calls(text: str, offered: Collection[str], *, where: str) -> list[dict[str, Any]]:
    """The calls of an answer; empty: it makes none.

    Raises:
        DataError: it begins and ends as one that does, but cannot be read.
    """
    begin = _BEGIN.match(text)
    if begin is None or not text.endswith("]"):
        return []
    if begin[1] not in offered:
        raise DataError(f"{where} calls {begin[1]} {_OF_BRACKETS}, {NOT_OFFERED}")
    one_of = "|".join(re.escape(name) for name in sorted(offered, key=len, reverse=True))
    opening = re.compile(rf"\s*[\[,]\s*({one_of})\s*\(")
    found, place = [], 0
    while call := opening.match(text, place):
        arguments, place = _arguments(text, call.end(), where=f"{where} calls {call[1]}")
        given = json.dumps(arguments, ensure_ascii=False)  # a text, in which a null is no gap
        found.append({"function": {"name": call[1], "arguments": given}})
    if (rest := text[place:].strip()) != "]":
        raise DataError(f"{where} has {rest[:_SHOWN_CHARS]!r} behind a call {_OF_BRACKETS}")
    return found


def _arguments(text: str, begin: int, *, where: str) -> tuple[dict[str, Any], int]:
    """The arguments that begin at a place, and where what is behind their bracket begins."""
    depth, end = 1, 0
    for piece in _PIECE.finditer(text, begin):
        depth += 1 if piece[0] in "([{" else -1 if piece[0] in ")]}" else 0
        if depth == 0:
            end = piece.end()
            break
    if not end or text[end - 1] != ")":
        raise DataError(f"{where} with what has no end, {_OF_BRACKETS}")
    words = text[begin : end - 1]
    try:
        call = ast.parse(f"f({words})", mode="eval").body
    except SyntaxError as exc:
        raise DataError(f"{where} with what cannot be read {_OF_BRACKETS}: {exc.msg}") from exc
    except (ValueError, MemoryError, RecursionError) as exc:
        raise DataError(f"{where} with what is nested too deeply {_OF_BRACKETS}") from exc
    if not isinstance(call, ast.Call):
        raise DataError(f"{where} with what are no parameters by name, {_OF_BRACKETS}")
    return _by_name(call, words, where=where), end


def _by_name(call: ast.Call, words: str, *, where: str) -> dict[str, Any]:
    try:
        values = {
            str(one.arg): ast.literal_eval(_JsonWords().visit(one.value)) for one in call.keywords
        }
    except (ValueError, TypeError, RecursionError) as exc:
        raise DataError(f"{where} with a value that is no literal, {_OF_BRACKETS}") from exc
    is_named = not call.args and len(values) == len(call.keywords) and "None" not in values
    if not is_named or not is_json(values) or has_joined_texts(f"f({words})"):
        raise DataError(f"{where} with what are no parameters by name, {_OF_BRACKETS}")
    return values


class _JsonWords(ast.NodeTransformer):
    """Makes JSON's three words the values that they are."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """One name, which ``ast.literal_eval`` refuses if it is another."""
        return ast.Constant(_WORDS_OF_JSON[node.id]) if node.id in _WORDS_OF_JSON else node


def _results(item: object, text: str, names: list[str], *, where: str) -> list[object]:
    """The results of a turn, each a message.

    Raises:
        DataError: they do not say of which calls they are, and there are several.
    """
    try:
        values = read_value(text)
    except ValueError:
        values = None
    is_list = (
        bool(values)
        and isinstance(values, list)
        and all(isinstance(one, dict) and one.keys() == {"name", "results"} for one in values)
    )
    if not is_list or sorted(str(one["name"]) for one in values) != sorted(names):
        if len(names) > 1:
            raise DataError(f"{where} has not a result {_OF_BRACKETS} for each of the calls")
        return [item]
    found = []
    for one in values:
        content = one["results"]
        if not isinstance(content, str):
            content = json.dumps(content, ensure_ascii=False)
        found.append(saying(item, content, role="tool", beside={"name": one["name"]}))
    return list(found)
