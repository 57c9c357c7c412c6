"""Holds the numbers in a GGUF's metadata against a checkpoint's config.

A window, a scaling of positions or a context that is wrong shows in long texts only, which no probe
is. What the GGUF says is read as a runtime reads it, defaults and other names included, and written
again as our converter writes it; so only what is computed otherwise differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ollama_bridge.errors import ConversionError, ModelError
from ollama_bridge.models.architectures import Architecture, rope
from ollama_bridge.models.architectures.keys import Keys
from ollama_bridge.models.gguf.reader import GGUFContents
from ollama_bridge.verify.numbers import describe_difference, is_same


def compare_metadata(
    contents: GGUFContents, config: Mapping[str, Any], architecture: Architecture
) -> list[str]:
    """Every number that is not the checkpoint's.

    Raises:
        ConversionError: the checkpoint cannot be a GGUF at all.
    """
    wanted = _values(architecture, config)
    # Divisors of frequencies are a tensor, and compared as such.
    tensors = {name: one for name, one in contents.tensors.items() if name != rope.FACTORS_NAME}
    try:
        keys = Keys(replace(contents, tensors=tensors), architecture.name)
        found = _values(architecture, architecture.config(keys))
    except (ModelError, ConversionError) as exc:
        return [exc.message]
    return [
        describe_difference(key, wanted.get(key), found.get(key))
        for key in dict.fromkeys((*wanted, *found))
        if key not in architecture.unread and not is_same(wanted.get(key), found.get(key))
    ]


def _values(architecture: Architecture, config: Mapping[str, Any]) -> dict[str, Any]:
    return {entry.key: entry.value for entry in architecture.entries(config)}
