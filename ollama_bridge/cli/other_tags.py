"""Another tag in a chat: what it has in it already, and how it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ollama_bridge.cli.asking import LEVELS
from ollama_bridge.cli.output import say
from ollama_bridge.client import ModelDetails
from ollama_bridge.client.conversation import Turn


def messages_in(details: ModelDetails) -> list[dict[str, Any]]:
    """The turns that a tag has in it, as one that ``/save`` made: the daemon sends them first."""
    return list(details.raw.get("messages") or [])


def unheard(
    turns: Sequence[Turn], first: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]
) -> list[Turn]:
    """What a second tag has not heard of what was said.

    Args:
        turns: Of the chat with the first tag.
        first: What the first tag has in it.
        other: What the second has: it may have been saved of this chat.
    """
    known = [*map(_words, first)]
    heard = [*map(_words, other)]
    for place in range(len(turns) + 1):
        if known == heard:
            return list(turns[place:])
        known += map(_words, turns[place].messages if place < len(turns) else ())
    return list(turns)


def thinking_for(think: bool | str | None, tag: str, details: ModelDetails) -> bool | str | None:
    """How another model is to think where it can; else as it does by itself, which is told."""
    levels = details.think_levels or LEVELS
    can = "thinking" in details.capabilities and (not isinstance(think, str) or think in levels)
    if not think or can:
        return think
    say(f"({tag} does not think so: /think {think if isinstance(think, str) else 'on'} is off)")
    return None


def _words(message: Mapping[str, Any]) -> tuple[str, str]:
    return str(message.get("role")), str(message.get("content", ""))
