"""Checks a checkpoint's folder before anything in it is loaded.

A pickle runs code when it is opened, and so does a repository's own modelling code. Neither is
ever loaded here: the first is refused, the second too, and the rest is checked for being there
and being readable, so that a later stage does not find out in its middle.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ollama_bridge.errors import ModelError, UnsafeCheckpointError, UnsupportedArchitectureError
from ollama_bridge.models.architectures import ARCHITECTURES
from ollama_bridge.models.json_files import read_json_object
from ollama_bridge.models.stored import open_weights
from ollama_bridge.models.tensor_match import match_tensors

# Every one is known to the loader, the GGUF import and the converter.
SUPPORTED_ARCHITECTURES = tuple(ARCHITECTURES)


def check_folder(folder: Path) -> Mapping[str, Any]:
    """Check that a folder is a checkpoint that can be loaded without running its code.

    Args:
        folder: A Hugging Face folder.

    Returns:
        Its config, as read.

    Raises:
        UnsafeCheckpointError: weights only as pickle, or code of its own.
        UnsupportedArchitectureError: of another architecture.
        ModelError: a file is missing, truncated or damaged, or a tensor is missing, left over or
            of another shape than the config says.
        ConversionError: the config lacks a size.
    """
    config = read_config(folder)
    _refuse_remote_code(folder, config)
    architecture = read_architecture(folder, config)
    if architecture not in SUPPORTED_ARCHITECTURES:
        raise UnsupportedArchitectureError(architecture, SUPPORTED_ARCHITECTURES, where=str(folder))
    if config.get("quantization_config"):
        raise ModelError(
            f"{folder} is quantized ({_method(config['quantization_config'])})",
            hint="start from the unquantized checkpoint",
        )
    match_tensors(ARCHITECTURES[architecture], config, open_weights(folder, config))
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(
            f"{folder} has no tokenizer.json",
            hint="save the fast tokenizer into it: tokenizer.save_pretrained(folder)",
        )
    return config


def read_config(folder: Path) -> dict[str, Any]:
    """Read ``config.json``.

    Raises:
        ModelError: no folder, no such file, or not a JSON object.
    """
    return read_json_object(folder / "config.json")


def read_architecture(folder: Path, config: Mapping[str, Any]) -> str:
    """The architecture that a config names.

    Raises:
        ModelError: it names none, or several.
    """
    names = config.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise ModelError(
            f"{folder / 'config.json'}: architectures is {names!r}, expected one name",
            hint="save the model with model.save_pretrained(folder)",
        )
    return names[0]


def _refuse_remote_code(folder: Path, config: Mapping[str, Any]) -> None:
    tokenizer_config = folder / "tokenizer_config.json"
    sources = [("config.json", config)]
    if tokenizer_config.is_file():
        sources.append(("tokenizer_config.json", read_json_object(tokenizer_config)))
    for name, source in sources:
        if source.get("auto_map"):
            raise UnsafeCheckpointError(
                f"{folder / name} asks for code of its own (auto_map), which is refused",
                hint="use a checkpoint of an architecture that transformers itself has",
            )


def _method(quantization: object) -> str:
    if isinstance(quantization, Mapping):
        return str(quantization.get("quant_method", "unknown method"))
    return "unknown method"
