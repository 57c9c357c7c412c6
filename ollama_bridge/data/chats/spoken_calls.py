"""Joins calls that are turns of their own with the answer that they belong to.

ms-swift has a turn of ``tool_call`` for each call of an answer, behind one of ``assistant`` where
something is said beside them; chat APIs have one message of all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ollama_bridge.data.chats.forms import find_messages, in_our_words, saying
from ollama_bridge.data.chats.tool_forms import calls_tool, is_spoken_call

_OF_FILES = re.compile(rb":\s*\"(?:tool_call|function_call)\"|\"tools\"\s*:\s*\[\s*\"")


def joined(messages: Sequence[object]) -> list[object]:
    """The messages, calls in a row as those of one answer, and of what is said in front of them.

    A call whose text is no JSON stays where it is, for an error that names it.
    """
    found: list[object] = []
    for item in messages:
        before = found[-1] if found else None
        calls = _calls(item)
        if calls and isinstance(before, dict) and (earlier := _earlier(before)) is not None:
            said = in_our_words(before)
            content = said["content"] if isinstance(said, dict) else ""
            # A text, in which a null is no gap.
            together = json.dumps([*earlier, *calls])
            found[-1] = saying(before, content, role="assistant", beside={"tool_calls": together})
        else:
            found.append(item)
    return found


def has_joined(path: Path) -> bool:
    """Whether a file has such calls in a row, or tools each of which is a text."""
    with path.open("rb") as stream:
        lines = (line for line in stream if _OF_FILES.search(line))
        return any(map(_is_joined, lines))


def _is_joined(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return False  # what is wrong with it is said where it is read
    if not isinstance(record, dict):
        return False
    tools = record.get("tools")
    messages = find_messages(record) or []
    has_texts = isinstance(tools, list) and any(isinstance(tool, str) for tool in tools)
    return has_texts or len(joined(messages)) < len(messages)


def _earlier(item: dict[str, Any]) -> list[Any] | None:
    """The calls of a turn in front of a call; None: it is no answer that others may belong to."""
    if calls := _calls(item):
        return calls
    said = in_our_words(item)
    if not isinstance(said, dict) or said["role"] != "assistant":
        return None
    together = item.get("tool_calls")
    if isinstance(together, str):
        return _values(together)
    return [] if isinstance(said["content"], str) and not calls_tool(item) else None


def _calls(item: object) -> list[Any]:
    """The calls of a turn that is nothing else; empty: it is another, or no JSON."""
    if not isinstance(item, dict) or not is_spoken_call(item):
        return []
    return _values(item.get("value") or item.get("content")) or []


def _values(text: object) -> list[Any] | None:
    """Of a text of JSON, one or a list; None: it is none."""
    if not isinstance(text, str):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) else [found]
