"""Reads the JSON files of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ollama_bridge.errors import ModelError
from ollama_bridge.models.paths import dangling, lfs_hint

REPLACE = "correct it, or get the checkpoint's own again"


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file of a checkpoint.

    Raises:
        ModelError: missing, or not a JSON object.
    """
    if not path.parent.is_dir():
        raise no_folder(path.parent)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise dangling(path) or ModelError(
            f"{path.parent} has no {path.name}",
            hint="give the folder of a Hugging Face checkpoint (config.json, *.safetensors, "
            "tokenizer.json)",
        ) from exc
    except (OSError, ValueError, RecursionError) as exc:
        raise ModelError(
            f"{path} cannot be read: {exc}",
            hint=lfs_hint(path) or REPLACE,
        ) from exc
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds a {type(value).__name__}, expected an object", hint=REPLACE)
    return value


def added_tokens(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The added tokens of a ``tokenizer.json``; what is none is left to who loads it."""
    listed = document.get("added_tokens")
    return [
        token
        for token in (listed if isinstance(listed, list) else ())
        if isinstance(token, Mapping)
        and isinstance(token.get("content"), str)
        and isinstance(token.get("id"), int)
    ]


def no_folder(folder: Path) -> ModelError:
    """Of a checkpoint that is not there, or not any more: ``models rm`` does not ask who reads it.

    Args:
        folder: Where it should be.
    """
    return ModelError(
        f"{folder} is not a folder",
        hint="give the folder of a Hugging Face checkpoint; where it is an import that was removed "
        "meanwhile, run the same command again, which imports it again and goes on",
    )
