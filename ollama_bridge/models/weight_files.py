"""Which files of a folder hold its weights; nothing is loaded to say so."""

from __future__ import annotations

import json
from pathlib import Path

from ollama_bridge.errors import ModelError
from ollama_bridge.models.paths import is_file

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
MODULES_NAME = "modules.json"  # of sentence-transformers: what it does with a model's vectors


def weights_files(folder: Path) -> list[Path]:
    """``model.safetensors``, or the shards that its index names; what else lies there is no weight.

    Raises:
        ModelError: there are none, or a shard is missing.
    """
    single = folder / WEIGHTS_NAME
    if single.is_file():
        return [single]
    index = folder / INDEX_NAME
    if not index.is_file():
        raise ModelError(
            f"{folder} has no {WEIGHTS_NAME}",
            hint="save the model with model.save_pretrained(folder)",
        )
    return _shards(index)


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as exc:
        raise ModelError(f"{index} cannot be read: {exc!r}") from exc
    if not names:
        raise ModelError(f"{index} names no file", hint="get the checkpoint again")
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise ModelError(f"{index} names the file {name!r}, which lies outside the folder")
        if not is_file(index.parent / name):
            raise ModelError(
                f"{index} names {name!r}, which is missing", hint="get the checkpoint again"
            )
    return [index.parent / name for name in names]
