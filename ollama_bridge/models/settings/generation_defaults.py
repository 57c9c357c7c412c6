"""How a model is to be sampled, in generation_config.json and in a GGUF.

llama.cpp's converter writes these keys, and its server and Ollama (0.34 does, 0.24 does not) take
them where nobody asks for anything else. A tag of ours sets its parameters itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf.constants import GGUFValueType

from ollama_bridge.models.architectures.entries import Entry, shortest
from ollama_bridge.models.settings.json_files import read_json_object

GENERATION_CONFIG = "generation_config.json"

_WHOLE, _REAL = GGUFValueType.INT32, GGUFValueType.FLOAT32
_LARGEST: Mapping[GGUFValueType, float] = {_WHOLE: (1 << 31) - 1, _REAL: 3.4e38}
# By key of a GGUF: what transformers calls it, and its type there.
_NAMES: Mapping[str, tuple[str, GGUFValueType]] = {
    "general.sampling.top_k": ("top_k", _WHOLE),
    "general.sampling.top_p": ("top_p", _REAL),
    "general.sampling.min_p": ("min_p", _REAL),
    "general.sampling.temp": ("temperature", _REAL),
    "general.sampling.penalty_repeat": ("repetition_penalty", _REAL),
}
DEFAULTS_KEYS = frozenset(_NAMES)
_WITHOUT_SAMPLING = "repetition_penalty"  # what transformers heeds also where it does not sample
# What reference values keep of generation_config.json, in their order there.
SAMPLING = (
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty"),
    "max_new_tokens",
)


def read_generation_config(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of how it is to be sampled; empty: nothing.

    Raises:
        ModelError: generation_config.json is damaged.
    """
    path = folder / GENERATION_CONFIG
    said = read_json_object(path) if path.is_file() else {}
    return {name: value for name, value in said.items() if value is not None}


def default_entries(folder: Path) -> list[Entry]:
    """What a GGUF says of a checkpoint's sampling; without ``do_sample`` of its penalty alone.

    Raises:
        ModelError: generation_config.json is damaged.
    """
    generation = read_generation_config(folder)
    sampled = generation.get("do_sample") is True
    entries = []
    for key, (name, type_) in _NAMES.items():
        value = _number(generation.get(name), type_)
        if value is not None and (sampled or name == _WITHOUT_SAMPLING):
            entries.append(Entry(key, value, type_))
    return entries


def defaults_of(metadata: Mapping[str, Any]) -> dict[str, bool | int | float]:
    """The part of generation_config.json that a GGUF says; what is no number is nothing."""
    found: dict[str, bool | int | float] = {}
    for key, (name, type_) in _NAMES.items():
        value = _number(metadata.get(key), type_)
        if value is not None:
            found[name] = value if type_ == _WHOLE else shortest(value)
    sampled = found.keys() - {_WITHOUT_SAMPLING}
    if sampled and found.get("temperature", 1.0) > 0:
        return {"do_sample": True, **found}
    return {name: value for name, value in found.items() if name not in sampled}


def _number(value: object, type_: GGUFValueType) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not abs(value) <= _LARGEST[type_]:  # NaN is not
        return None
    return float(value) if type_ == _REAL else int(value)
