"""Reads the calls that a text holds, as JSON or as Python writes it, into those of chat APIs."""

from __future__ import annotations

import json
from typing import Any

from ollama_bridge.data.chats.written_values import read_values
from ollama_bridge.errors import DataError

_OF_A_CALL = {"name", "arguments", "id", "type"}


def read_calls(body: str, *, where: str) -> list[dict[str, Any]]:
    """Calls as JSON or Python writes them; arguments as a text, in which a null is no gap."""
    try:
        values = read_values(body)
    except ValueError as exc:
        raise DataError(f"{where} is {exc}") from exc
    if not values:
        raise DataError(f"{where} is empty")
    found = []
    for value in values:
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise DataError(f"{where} has no name")
        key = "arguments" if "arguments" in value else "parameters"
        if unknown := value.keys() - {*_OF_A_CALL, key}:
            raise DataError(f"{where} has what no call has: {', '.join(sorted(unknown))}")
        given = value.get(key)
        if not isinstance(given, str):
            given = json.dumps({} if given is None else given, ensure_ascii=False)
        call = {"function": {"name": value["name"], "arguments": given}}
        found.append({"id": value["id"], **call} if isinstance(value.get("id"), str) else call)
    return found
