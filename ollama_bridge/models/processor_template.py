"""The chat template of a processor: where transformers 4 left that of a model that also sees."""

from __future__ import annotations

from pathlib import Path

from ollama_bridge.models.json_files import read_json_object

PROCESSOR_TEMPLATE = "chat_template.json"
_TOKENIZERS_OWN = "chat_template.jinja"


def processor_template(folder: Path) -> str | None:
    """The processor's chat template, where the tokenizer has none; None: there is none either.

    Args:
        folder: A checkpoint.

    Raises:
        ModelError: a file is damaged.
    """
    path, settings = folder / PROCESSOR_TEMPLATE, folder / "tokenizer_config.json"
    if not path.is_file() or (folder / _TOKENIZERS_OWN).is_file():
        return None
    if settings.is_file() and read_json_object(settings).get("chat_template"):
        return None
    template = read_json_object(path).get("chat_template")
    return template if isinstance(template, str) and template else None


def write_template(folder: Path, template: str) -> None:
    """Make it the tokenizer's."""
    (folder / _TOKENIZERS_OWN).write_text(template, encoding="utf-8", newline="")
