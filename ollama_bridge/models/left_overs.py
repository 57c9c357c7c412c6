"""What the copy of a checkpoint's settings goes without: it asks for what nobody needs to do."""

from __future__ import annotations

import json
from pathlib import Path

from ollama_bridge.models.json_files import read_json_object

_WHOLE_WEIGHTS = (
    "its config still asks for the 4 or 8 bits that it was trained with (quantization_config); "
    "the weights are whole, and served as they are"
)
_OWN_CODE = (
    "it names code of its own (auto_map); its architecture is one that transformers has, and that "
    "code is not run"
)
_LEFT_OVERS = (
    ("config.json", "quantization_config", _WHOLE_WEIGHTS),
    ("config.json", "auto_map", _OWN_CODE),
    ("tokenizer_config.json", "auto_map", _OWN_CODE),
)


def drop_left_overs(folder: Path) -> dict[str, set[str]]:
    """Take settings that do not matter out of a checked checkpoint's copy.

    Args:
        folder: The copy.

    Returns:
        What is to be said of it, and the files that were changed for it.
    """
    said: dict[str, set[str]] = {}
    for name, key, what in _LEFT_OVERS:
        path = folder / name
        settings = read_json_object(path) if path.is_file() else {}
        if settings.pop(key, None):
            path.write_text(json.dumps(settings, indent=2), encoding="utf-8")
            said.setdefault(what, set()).add(name)
    return said
