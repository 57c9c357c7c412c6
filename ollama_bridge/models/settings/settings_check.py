"""Checks what a checkpoint's small files say of tokens and sampling, in its owner's folder.

What is found later is found in a copy, whose place nobody knows and where mending is in vain.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ollama_bridge.errors import ModelError
from ollama_bridge.models.settings.generation_defaults import (
    GENERATION_CONFIG,
    SAMPLING,
    read_generation_config,
)
from ollama_bridge.models.settings.json_files import REPLACE, read_json_object
from ollama_bridge.models.settings.left_overs import TOKEN_FILES, tokens_without_rows
from ollama_bridge.models.settings.named_ends import listed_ends


def check_sampling(folder: Path) -> None:
    """Refuse what is no number, before a model is asked for the answers of a tag that it goes into.

    Raises:
        ModelError: there is such a thing, or the file is damaged.
    """
    generation = read_generation_config(folder)
    for name in SAMPLING:
        value = generation.get(name, 0)
        if not isinstance(value, bool | int | float) or not -math.inf < value < math.inf:
            raise ModelError(
                f"{folder / GENERATION_CONFIG}: {name} is {value!r}, expected a number",
                hint="correct it, or remove the file",
            )


def check_settings_of_tokens(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse ends, and marks of the chat format, that the model has no row for.

    Args:
        config: As ``safety.check_folder`` returns it.

    Raises:
        ModelError: there is one, or a file is damaged.
    """
    for name in TOKEN_FILES:
        if (path := folder / name).is_file():
            _check_is_text(path, read_json_object(path))
    rows = config.get("vocab_size")
    for end in listed_ends(read_generation_config(folder)):
        if isinstance(rows, int) and not 0 <= end < rows:
            raise ModelError(
                f"{folder / GENERATION_CONFIG}: eos_token_id {end} is no token, the model has "
                f"{rows}",
                hint="write the id of the token that ends an answer there "
                "(tokenizer.eos_token_id), or remove the file",
            )
    if used := tokens_without_rows(folder, config).used:
        raise ModelError(
            f"{folder}: its tokenizer has {', '.join(used)}, which it uses and the model has no "
            f"row for: that has {rows}",
            hint="take the tokenizer that the model was trained with; if that is this one, the "
            "model was not saved behind model.resize_token_embeddings(len(tokenizer))",
        )


def _check_is_text(path: Path, settings: Mapping[str, Any]) -> None:
    try:
        json.dumps(settings, ensure_ascii=False).encode()
    except UnicodeEncodeError as exc:  # JSON can say it, no tokenizer can look it up
        raise ModelError(f"{path} has half of a surrogate pair", hint=REPLACE) from exc
