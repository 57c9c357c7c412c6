"""What a GGUF says about a model as a whole: name, authors, licence, tags, base models.

An import keeps it in ``config.json``, which transformers carries from model to student; an export
writes it back. So a round trip loses nothing, and a student says whose child it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf.constants import GGUFValueType

from ollama_bridge.models.architectures.entries import Entry, array, flag, number, text
from ollama_bridge.models.settings.generation_defaults import DEFAULTS_KEYS

SOURCE_KEY = "ollama_bridge_source"  # in config.json

_PREFIX = "general."
# Of the file, not of the model: an export has its own.
_OF_THE_FILE = ("architecture", "type", "file_type", "quantization_version", "alignment")
_SIGNATURE = "quantized_by"  # of the source's file: an export was quantized by nobody named there
# What stays true of a model that was made of another one.
_INHERITED = ("license", "license.name", "license.link", "languages", "tags")
# Of a tag that names the base, as peft writes it: where that is a folder, with its path. The base's
# own keys name it, and none that is a folder.
_BASE_TAG = "base_model:"
# What can be said about a base model, under general.base_model.N.
_OF_A_BASE = (
    "name",
    "author",
    "version",
    "organization",
    "description",
    "url",
    "doi",
    "uuid",
    "repo_url",
)

General = Mapping[str, Any]


def kept_general(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The ``general.*`` keys of a GGUF that describe the model, without the prefix.

    How it is to be sampled is in the generation config.
    """
    return {
        key.removeprefix(_PREFIX): value
        for key, value in metadata.items()
        if key.startswith(_PREFIX)
        and key.removeprefix(_PREFIX) not in _OF_THE_FILE
        and key not in DEFAULTS_KEYS
        and _writable(value)
    }


def general_of(config: Mapping[str, Any]) -> General:
    """What the config keeps of its source; empty for a checkpoint that came from elsewhere."""
    return writable(config.get(SOURCE_KEY))


def writable(value: object) -> General:
    """Of what a JSON file has, the part that a GGUF can say."""
    if not isinstance(value, Mapping):
        return {}
    said = {str(key): item for key, item in value.items() if key != _SIGNATURE and _writable(item)}
    if isinstance(said.get("tags"), list):
        said["tags"] = public_tags(said["tags"])
    return {key: item for key, item in said.items() if item != []}


def public_tags(tags: list[str]) -> list[str]:
    """Without those that name a base."""
    return [tag for tag in tags if not tag.startswith(_BASE_TAG)]


def same_model_entries(source: General, *, name: str | None) -> list[Entry]:
    """All that the source's GGUF said, for an export of the same weights."""
    renamed = source if name is None else {**source, "name": name}
    return [_entry(key, value) for key, value in renamed.items()]


def derived_model_entries(source: General) -> list[Entry]:
    """Licence and tags, and the source as the base model, for an export of other weights.

    Where the source has no name, its own base models are the next that have.
    """
    entries = [_entry(key, source[key]) for key in _INHERITED if key in source]
    if isinstance(source.get("name"), str):
        entries.append(_entry("base_model.count", 1))
        entries += [
            _entry(f"base_model.0.{key}", source[key]) for key in _OF_A_BASE if key in source
        ]
    else:
        entries += [_entry(key, source[key]) for key in source if key.startswith("base_model.")]
    return entries


def _writable(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(item, str) for item in value)
    return isinstance(value, str | bool) or (type(value) is int and 0 <= value < 1 << 32)


def _entry(key: str, value: Any) -> Entry:
    key = _PREFIX + key
    if isinstance(value, str):
        return text(key, value)
    if isinstance(value, bool):
        return flag(key, value=value)
    if isinstance(value, int):
        return number(key, value)
    return array(key, value, GGUFValueType.STRING)
