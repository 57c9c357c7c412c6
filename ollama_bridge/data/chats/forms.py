"""Knows the forms that conversations come in, and brings their messages into one.

``messages`` of ``role`` and ``content``, as chat APIs have them; ShareGPT's ``conversations`` of
``from`` and ``value``; TRL's ``prompt`` and ``completion`` where both are lists of messages. What
of them are tools, calls and results is ``tool_forms``'.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from ollama_bridge.data.chats.tool_forms import calls_tool, is_spoken_call

A_LINE = (
    'a line looks like {"messages": [{"role": "user", "content": "..."}, '
    '{"role": "assistant", "content": "..."}]}'
)
LISTS = ("messages", "conversations", "conversation")
# Of a speaker in ShareGPT's form -> the role.
SPEAKERS = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "model": "assistant",
    "function_response": "tool",
}
# Other names of roles: OpenAI's newer one of the system's, its older one of a tool's, and those of
# LLaMA-Factory and ms-swift, who have the call as a turn.
_ROLES = {
    "developer": "system",
    "function": "tool",
    "function_call": "assistant",
    "observation": "tool",
    "tool_call": "assistant",
    "tool_response": "tool",
}
_OF_A_TEXT = ("role", "content", "from", "value")
# What a field holds that stands beside texts; LLaVA's lines have one image.
MEDIA = {
    "images": "images",
    "image": "images",
    "videos": "videos",
    "video": "videos",
    "audios": "sounds",
    "audio": "sounds",
}


def find_messages(record: Mapping[str, object]) -> list[object] | None:
    """The messages of a line as it has them; None: there are none.

    A ``system`` that stands beside them, as a text, is their first.
    """
    lists = (record.get(name) for name in LISTS)
    found = next((one for one in lists if isinstance(one, list)), None)
    if found is None:
        found = _prompt_and_completion(record)
    system = record.get("system")
    if not found or not isinstance(system, str) or not system.strip():
        return found
    first = in_our_words(found[0])
    if isinstance(first, dict) and first["role"] == "system":
        return found
    return [{"role": "system", "content": system}, *found]


def in_our_words(item: object) -> object:
    """A message as ``role`` and ``content``.

    Its speaker or its system turn may have another name, its content be in parts that are texts.
    """
    if not isinstance(item, dict):
        return item
    role, content = item.get("role"), item.get("content")
    if role is None and "from" in item:
        role, content = item["from"], item.get("value")
        role = SPEAKERS.get(str(role), role)
    role = _ROLES.get(str(role), role)
    if is_spoken_call(item):
        content = ""
    if content is None and (role == "system" or calls_tool(item)):
        content = ""
    if isinstance(content, list):
        parts = [part if isinstance(part, dict) else {} for part in content]
        texts = [part.get("text") for part in parts if part.get("type") == "text"]
        if len(texts) == len(parts) and all(isinstance(text, str) for text in texts):
            content = "\n".join(map(str, texts))
    if role == "tool" and not isinstance(content, str | None):  # a result as it came
        content = json.dumps(content, ensure_ascii=False)
    return {"role": role, "content": content}


def saying(
    item: object, content: str, *, role: str, beside: Mapping[str, object] | None = None
) -> dict[str, object]:
    """A message with another text; media, weights and thoughts of it stay.

    Args:
        beside: What else it gets: calls, or whose result it is.
    """
    given = item if isinstance(item, dict) else {}
    kept = {name: value for name, value in given.items() if name not in _OF_A_TEXT}
    return {**kept, "role": role, "content": content, **(beside or {})}


def is_not_learnt(item: object) -> bool:
    """Whether a message is an answer that OpenAI's form marks as context alone: 0, or false."""
    return isinstance(item, dict) and item.get("weight") == 0


def media_of(said: object) -> str | None:
    """What there is beside the text of a message, or of a whole line, such as images."""
    if not isinstance(said, Mapping):
        return None
    return next((kind for name, kind in MEDIA.items() if said.get(name)), None)


def is_list_of_turns(value: object) -> bool:
    """Whether a value is a list of messages, not of other objects, such as spans of a text."""
    return isinstance(value, list) and bool(value) and all(map(_is_turn, value))


def _is_turn(item: object) -> bool:
    if not isinstance(item, dict):
        return False
    speaker, said = ("from", "value") if item.get("role") is None else ("role", "content")
    return isinstance(item.get(speaker), str) and (said in item or calls_tool(item))


def _prompt_and_completion(record: Mapping[str, object]) -> list[object] | None:
    prompt, completion = record.get("prompt"), record.get("completion", [])
    if not isinstance(prompt, list) or not is_list_of_turns(prompt):
        return None
    if not isinstance(completion, list) or "chosen" in record:
        return None
    return [*prompt, *completion]
