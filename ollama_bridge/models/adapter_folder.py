"""The folder of a PEFT adapter: its files, and the base model that it names."""

from __future__ import annotations

import re
from pathlib import Path

from ollama_bridge.errors import ModelError, UnsafeCheckpointError
from ollama_bridge.models.json_files import read_json_object

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MLX_WEIGHTS = "adapters.safetensors"
# What Unsloth's quantized copies are called, behind the name of the model in 16 bits.
_FOUR_BITS = ("-unsloth-bnb-4bit", "-bnb-4bit")
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def is_adapter(folder: Path) -> bool:
    """Whether a folder is a PEFT adapter."""
    return (folder / ADAPTER_CONFIG).is_file()


def base_of(adapter: Path) -> tuple[str, str | None]:
    """The base model that an adapter names: a folder or a hub repository, and its revision.

    Raises:
        ModelError: it names none.
    """
    settings = read_json_object(adapter / ADAPTER_CONFIG)
    name, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if not isinstance(name, str) or not name:
        raise ModelError(
            f"{adapter / ADAPTER_CONFIG} names no base model", hint=naming_hint(adapter)
        )
    return name, revision if isinstance(revision, str) else None


def is_called_quantized(base: str) -> bool:
    """Whether a base's name says that it is a copy in 4 bits, as Unsloth's adapters name it."""
    return base.endswith(_FOUR_BITS)


def naming_hint(adapter: Path, *, named: str = "", quantized: bool = False) -> str:
    """How to say which base model is meant."""
    whole = named
    for end in _FOUR_BITS:
        whole = whole.removesuffix(end)
    if not _REPOSITORY.fullmatch(whole) or (quantized and whole == named):
        whole = "org/name"
    return (
        f"name the model that it was trained on: --base FOLDER or --base hf:{whole} (`package`, "
        f"`convert`, `verify`), or set base_model_name_or_path in {adapter / ADAPTER_CONFIG}"
    )


def weights_file(adapter: Path) -> Path:
    """The file with an adapter's tensors.

    Raises:
        UnsafeCheckpointError: it is a pickle.
        ModelError: there is none.
    """
    path = adapter / ADAPTER_WEIGHTS
    if path.is_file():
        return path
    if (adapter / "adapter_model.bin").is_file():
        raise UnsafeCheckpointError(
            f"{adapter} holds its weights only as pickle (adapter_model.bin); opening one runs "
            "whatever code is in it, so it is refused",
            hint="convert it where you trust it: load it with peft and call "
            "model.save_pretrained(folder)",
        )
    raise ModelError(
        f"{adapter} has no {ADAPTER_WEIGHTS}",
        hint="save the adapter with model.save_pretrained(folder)",
    )
