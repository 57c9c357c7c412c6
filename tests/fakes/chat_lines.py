"""Lines of conversations with tools, collected as ``prepare`` does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ollama_bridge.data.candidates import Collected
from ollama_bridge.data.chats.messages import collect_messages
from ollama_bridge.examples import Example
from ollama_bridge.recipe.config import DataSection, TaskSection

REPLY = TaskSection(kind="reply", system="")


def write(path: Path, *records: Any) -> Path:
    """A file of these lines."""
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


def section(path: Path) -> DataSection:
    """The section of a recipe that names the file."""
    return DataSection.model_validate({"source": "messages", "path": path})


def collect(folder: Path, *records: Any) -> Collected:
    """What comes of these lines, in a file in ``folder``."""
    path = write(folder / "chats.jsonl", *records)
    return collect_messages(path, section(path), REPLY)


def read(folder: Path, record: Any) -> Example:
    """What comes of one line."""
    (found,) = collect(folder, record).candidates
    return found.example
