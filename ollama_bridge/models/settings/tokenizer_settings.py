"""``tokenizer_config.json`` as transformers reads it: an older file beside it may overrule it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ollama_bridge.errors import ModelError
from ollama_bridge.models.settings.json_files import read_json_object
from ollama_bridge.models.settings.small_files import (
    SPECIAL_TOKENS_MAP,
    TOKENIZER,
    TOKENIZER_CONFIG,
)

# What to do about a tokenizer that cannot be used.
OTHER_TOKENIZER = f"take the {TOKENIZER} and {TOKENIZER_CONFIG} that the model was trained with"


def tokenizer_settings(folder: Path) -> dict[str, Any]:
    """A tokenizer's settings; of a folder without any: none.

    Raises:
        ModelError: a file of them is damaged.
    """
    return _read(folder, TOKENIZER_CONFIG) | _overruling(folder)


def overruled_roles(folder: Path) -> list[str]:
    """What is to be said of roles that both files name, and not alike.

    So it is where transformers 5 saved a tokenizer over the files of another one: it writes
    ``tokenizer_config.json`` alone.
    """
    own, said = _read(folder, TOKENIZER_CONFIG), []
    for role, value in _overruling(folder).items():
        names = token_text(own.get(role)), token_text(value)
        if None not in names and names[0] != names[1]:
            said.append(
                f"{role} is {names[1]} by {SPECIAL_TOKENS_MAP}, by which transformers goes, and "
                f"{names[0]} by {TOKENIZER_CONFIG}: if the model was trained with the latter, "
                f"remove {folder / SPECIAL_TOKENS_MAP}"
            )
    return said


def token_text(token: object) -> str | None:
    """The text of a token, as the files name them: with its flags, or without."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def default_template(settings: Mapping[str, Any], folder: Path) -> str | None:
    """The chat template among a tokenizer's settings; older folders have several, by name.

    Raises:
        ModelError: several, and none is the default.
    """
    template = settings.get("chat_template")
    if isinstance(template, list):
        entries = [entry for entry in template if isinstance(entry, Mapping)]
        named = {str(entry.get("name")): entry.get("template") for entry in entries}
        template = named.get("default")
        if named and template is None:
            raise no_default(folder, named)
    return template if isinstance(template, str) else None


def no_default(folder: Path, names: Iterable[str]) -> ModelError:
    """Of a folder whose chat templates all have other names."""
    return ModelError(
        f"{folder}: none of its chat templates ({', '.join(names)}) is the default",
        hint="put the one to serve into the checkpoint as chat_template.jinja, or give it: "
        "--chat-template FILE.jinja (package, convert, verify)",
    )


def _overruling(folder: Path) -> dict[str, Any]:
    """The roles that the older file names, where it is read at all.

    Source: ``_from_pretrained`` of transformers' ``tokenization_utils_base.py``.
    """
    if "added_tokens_decoder" in _read(folder, TOKENIZER_CONFIG):
        return {}
    named = _read(folder, SPECIAL_TOKENS_MAP)
    return {role: value for role, value in named.items() if role.endswith("_token")}


def _read(folder: Path, name: str) -> dict[str, Any]:
    return read_json_object(folder / name) if (folder / name).is_file() else {}
