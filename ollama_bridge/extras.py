"""The optional parts of the package: whether they are installed, asked without loading them."""

from __future__ import annotations

import importlib.util

from ollama_bridge.errors import MissingExtraError

_TRAIN_PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "gguf",
    "safetensors",
    "tokenizers",
    "blake3",
)


def missing_train_packages() -> list[str]:
    """What of :data:`_TRAIN_PACKAGES` is not installed."""
    return [name for name in _TRAIN_PACKAGES if importlib.util.find_spec(name) is None]


def require_training_extra() -> None:
    """Say at once, not after the first stage, that torch is missing.

    Raises:
        MissingExtraError: naming the package and the command.
    """
    missing = missing_train_packages()
    if missing:
        raise MissingExtraError(missing[0], "train")
