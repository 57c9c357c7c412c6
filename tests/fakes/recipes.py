"""A user's recipe of conversations."""

from __future__ import annotations

from typing import Any

from ollama_bridge.recipe.config import Recipe
from ollama_bridge.recipe.loading import parse_recipe


def own_recipe(sections: dict[str, Any]) -> Recipe:
    """A recipe of what is in ``mine.jsonl``; ``sections`` are in place of its own."""
    data = {
        "name": "mine",
        "description": "A recipe.",
        "task": {"kind": "reply", "system": "Answer."},
        "data": {"source": "messages", "path": "mine.jsonl"},
        "teacher": {"model": "ollama:smollm2:135m"},
        "export": {"tag": "mine"},
    }
    return parse_recipe(data | sections, source="mine.yaml")
