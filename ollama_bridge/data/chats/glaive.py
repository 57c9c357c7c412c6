"""Reads Glaive's lines (glaive-function-calling-v2): functions, and one text of all turns.

``system`` has the functions behind a sentence, ``chat`` the turns behind ``USER:``, ``ASSISTANT:``
and ``FUNCTION RESPONSE:``, with a token at the end of each answer; a call is ``<functioncall>`` and
an object whose arguments are JSON in single quotes, which is no JSON. Some lines of that file are
damaged (marks of turns inside of turns, calls that are cut): they are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ollama_bridge.data.chats.written_calls import read_calls
from ollama_bridge.data.chats.written_values import read_values
from ollama_bridge.errors import DataError

A_GLAIVE_LINE = (
    'a chat of turns is "USER: ...", "ASSISTANT: ... <|endoftext|>" and "FUNCTION RESPONSE: ...", '
    "with blank lines in between"
)
# Of every reason, by which that advice is found.
_OF_A_CHAT = "of the chat"

_ROLES = {"USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"}
_MARK = "|".join(_ROLES)
_TURN = re.compile(rf"(?:\A\s*|\n\n+)({_MARK}):")
_INSIDE = re.compile(rf"^(?:{_MARK}):", re.MULTILINE)
_END = "<|endoftext|>"
_CALL = "<functioncall>"
_QUOTED = re.compile(r"""\s*\{\s*"name":\s*("[^"]*"),\s*"arguments":\s*'(.*)'\s*\}\s*""", re.DOTALL)
_LEAD_IN = (
    "You are a helpful assistant with access to the following functions. Use them if required -"
)
_SYSTEM = re.compile(r"\s*(?:SYSTEM:)?\s*")


def is_glaive(record: Mapping[str, object]) -> bool:
    """Whether a line has all its turns in one text."""
    chat, system = record.get("chat"), record.get("system", "")
    return (
        isinstance(chat, str)
        and isinstance(system, str)
        and chat.lstrip().startswith("USER:")
        and "ASSISTANT:" in chat
    )


def is_of_a_chat(reason: str) -> bool:
    """Whether a line was refused for what stands in such a text."""
    return _OF_A_CHAT in reason


def read_glaive(record: Mapping[str, object], *, where: str) -> Mapping[str, object] | None:
    """The line in the form that chat APIs use; None: it is not of this form.

    Raises:
        DataError: naming ``where``, the turn and what of it cannot be read.
    """
    if not is_glaive(record):
        return None
    system, tools = _system_and_tools(str(record.get("system", "")), where=where)
    messages = [{"role": "system", "content": system}] if system else []
    _, *parts = _TURN.split(str(record["chat"]))
    for number, (mark, text) in enumerate(zip(parts[::2], parts[1::2], strict=True), start=1):
        messages.append(_message(mark, text, where=f"{where}: turn {number} {_OF_A_CHAT}"))
    kept = {name: value for name, value in record.items() if name not in ("chat", "system")}
    return {**kept, "tools": tools, "messages": messages}


def _system_and_tools(text: str, *, where: str) -> tuple[str, list[Any]]:
    text = _SYSTEM.sub("", text, count=1)
    if not text.startswith(_LEAD_IN):
        return text.strip(), []
    text = text.removeprefix(_LEAD_IN)
    end = text.rfind("}") + 1
    try:
        tools = read_values(text[:end])
    except ValueError as exc:
        raise DataError(f"{where}: its list of functions is {exc}") from exc
    return text[end:].strip(), tools


def _message(mark: str, text: str, *, where: str) -> dict[str, Any]:
    """One turn.

    Raises:
        DataError: it has another inside, an answer does not end, or its call cannot be read.
    """
    text = text.strip()
    if mark == "ASSISTANT":
        if not text.endswith(_END):
            raise DataError(f"{where} is an answer without {_END} at its end")
        text = text.removesuffix(_END).strip()
    if stray := _INSIDE.search(text):
        raise DataError(f"{where} has {stray[0]} inside")
    if _END in text:
        raise DataError(f"{where} has {_END} inside")
    before, call, body = text.partition(_CALL)
    if mark != "ASSISTANT" or not call:
        return {"role": _ROLES[mark], "content": text}
    if quoted := _QUOTED.fullmatch(body):
        # Python would read the escapes of a text in quotes; here they are JSON's.
        calls = [{"function": {"name": quoted[1][1:-1], "arguments": quoted[2]}}]
    else:
        calls = read_calls(body, where=f"{where}: {_CALL}")
    return {"role": "assistant", "content": before, "tool_calls": calls}
