"""The chat template of a processor: where transformers 4 left that of a model that also sees."""

from __future__ import annotations

from pathlib import Path

from ollama_bridge.models.settings.json_files import read_json_object
from ollama_bridge.models.settings.small_files import CHAT_TEMPLATE, TOKENIZER_CONFIG

PROCESSOR_TEMPLATE = "chat_template.json"


def processor_template(folder: Path) -> str | None:
    """The processor's chat template, where the tokenizer has none; None: there is none either.

    Raises:
        ModelError: a file is damaged.
    """
    path, settings = folder / PROCESSOR_TEMPLATE, folder / TOKENIZER_CONFIG
    if not path.is_file() or (folder / CHAT_TEMPLATE).is_file():
        return None
    if settings.is_file() and read_json_object(settings).get("chat_template"):
        return None
    template = read_json_object(path).get("chat_template")
    return template if isinstance(template, str) and template else None


def write_template(folder: Path, template: str) -> None:
    """Make it the tokenizer's."""
    (folder / CHAT_TEMPLATE).write_text(template, encoding="utf-8", newline="")
