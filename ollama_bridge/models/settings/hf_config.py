"""A checkpoint's config as transformers has it, and why it, or a GGUF, takes none.

transformers checks the type of every field, in an error of a class that is no ``ValueError``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ollama_bridge.errors import ConversionError, ModelError

_NAME = "config.json"
_HINT = "correct the file if that is not so of the model; else Ollama cannot compute it"


def read_hf_config(config_class: Any, folder: Path) -> Any:
    """Read ``config.json`` into a class of transformers, with what the file leaves out.

    Raises:
        ModelError: transformers refuses it.
    """
    with refusals_named(folder):
        config = config_class.from_pretrained(folder, local_files_only=True)
    pads = getattr(config, "pad_token_id", None)
    if isinstance(pads, int) and pads >= config.vocab_size:
        # Of a token that was added without a row: transformers' embedding asserts that it has one.
        config.pad_token_id = None
    return config


@contextlib.contextmanager
def refusals_named(folder: Path) -> Iterator[None]:
    """Turn transformers' refusal of a config into the error that says which file.

    Raises:
        ModelError: transformers refuses it.
    """
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (OSError, KeyError, ValueError, TypeError, StrictDataclassError) as exc:
        place = folder / _NAME
        raise ModelError(
            f"{place} cannot be read by transformers: {exc.__cause__ or exc}",
            hint="correct it, or get the checkpoint's own again",
        ) from exc


@contextlib.contextmanager
def keys_named(folder: Path) -> Iterator[None]:
    """Say of which folder the config is that an architecture refuses; it knows but the values.

    Raises:
        ConversionError: a key is refused.
    """
    try:
        yield
    except ConversionError as exc:
        if not exc.message.startswith(f"{_NAME}:"):
            raise
        raise ConversionError(f"{folder}/{exc.message}", hint=exc.hint or _HINT) from exc
