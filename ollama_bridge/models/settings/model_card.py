"""What the model card of a checkpoint (README.md) says in its front matter, as GGUF metadata."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from gguf.constants import GGUFValueType

from ollama_bridge.models.architectures.entries import Entry, array, number, text
from ollama_bridge.models.settings.general import public_tags

CARD_NAME = "README.md"

_MAX_BYTES = 1 << 20
_FRONT_MATTER = re.compile(r"---\r?\n(.*?)\r?\n---", re.DOTALL)
# peft writes the folder of a local base here, which is nobody else's business.
_REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")
_TEXTS = {
    "license": "license",
    "license_name": "license.name",
    "license_link": "license.link",
}


def card_entries(folder: Path) -> list[Entry]:
    """Licence, tags, languages, base models and data sets.

    A card is written for people: one that is missing or cannot be read says nothing, and no model
    is refused for it.
    """
    card = _read(folder / CARD_NAME)
    entries = [
        text(f"general.{key}", card[name])
        for name, key in _TEXTS.items()
        if isinstance(card.get(name), str)
    ]
    tags = [*public_tags(texts_in(card.get("tags"))), *texts_in(card.get("pipeline_tag"))]
    for key, values in (("tags", tags), ("languages", texts_in(card.get("language")))):
        if values:
            entries.append(array(f"general.{key}", values, GGUFValueType.STRING))
    for name, key in (("base_model", "base_model"), ("datasets", "dataset")):
        entries += repository_entries(f"general.{key}", texts_in(card.get(name)))
    return entries


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    with path.open("rb") as stream:
        found = _FRONT_MATTER.match(stream.read(_MAX_BYTES).decode(errors="replace"))
    try:
        card = yaml.safe_load(found.group(1)) if found else None
    except (yaml.YAMLError, ValueError, RecursionError):  # a date that is none is a ValueError
        return {}
    return card if isinstance(card, Mapping) else {}


def texts_in(value: object) -> list[str]:
    """What a list has of texts, or a text alone; empty ones say nothing."""
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, str) and item]


def repository_entries(prefix: str, names: list[str]) -> Iterator[Entry]:
    """Each as organization and name, and how many there are.

    Args:
        prefix: Of the keys.
        names: As the hub has them; what is no such name is left out.
    """
    names = [name for name in names if _REPOSITORY.fullmatch(name)]
    if names:
        yield number(f"{prefix}.count", len(names))
    for index, full in enumerate(names):
        organization, _, name = full.rpartition("/")
        yield text(f"{prefix}.{index}.name", name)
        if organization:
            yield text(f"{prefix}.{index}.organization", organization)
