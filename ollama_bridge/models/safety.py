"""Checks a checkpoint's folder before anything in it is loaded.

A pickle runs code when it is opened, and so does a repository's own modelling code. Neither is
ever loaded here: the first is refused, the second too where nothing else computes the model, and
the rest is checked for being there and being readable, so that a later stage does not find out in
its middle.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from ollama_bridge.errors import (
    ConversionError,
    ModelError,
    UnsafeCheckpointError,
    UnsupportedArchitectureError,
)
from ollama_bridge.models.architectures import ARCHITECTURES
from ollama_bridge.models.paths import dangling
from ollama_bridge.models.settings.hf_config import keys_named, refusals_named
from ollama_bridge.models.settings.json_files import no_folder, read_json_object
from ollama_bridge.models.settings.small_files import TOKENIZER
from ollama_bridge.models.weights.adapter_folder import classifier, is_adapter
from ollama_bridge.models.weights.files import (
    INDEX_NAME,
    MODULES_NAME,
    WEIGHTS_NAME,
    pieces_of_training,
)
from ollama_bridge.models.weights.stored import open_weights
from ollama_bridge.models.weights.tensor_match import match_tensors
from ollama_bridge.models.weights.text_part import is_of_eyes, is_wrapper, text_config

# Last parts of the names of tensors that are not packed; else there are scales, zeros, indices.
_WHOLE_PARTS = ("weight", "bias", "inv_freq")
# Methods that may keep whole weights, and round them whenever they are used.
_ROUNDED_WHEN_USED = ("bitnet", "fouroversix")
# FSDP 2 trains in a class that it makes of the model's, whose name older transformers save.
_PARALLEL = "FSDP"
_SENTENCEPIECE = "tokenizer.model"
_CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")


def check_folder(folder: Path) -> Mapping[str, Any]:
    """Check that a folder is a checkpoint that can be loaded without running its code.

    Returns:
        Its config, as read; of a model that also sees, its language model's.

    Raises:
        UnsafeCheckpointError: weights only as pickle, or code of its own.
        UnsupportedArchitectureError: of another architecture.
        ModelError: a file is missing, truncated or damaged, or a tensor is missing, left over or
            of another shape than the config says.
        ConversionError: the config lacks a size.
    """
    _refuse_what_holds_checkpoints(folder)
    config = _language_model(folder)
    architecture = _supported(folder, config)
    method = quantization_of(folder)
    if method is not None:
        raise _quantized(folder, method)
    _refuse_embedding(folder)
    with keys_named(folder):
        match_tensors(ARCHITECTURES[architecture], config, open_weights(folder, config))
    check_has_tokenizer(folder)
    return config


def check_has_tokenizer(folder: Path) -> None:
    """Refuse a folder without a ``tokenizer.json``, which is what is read.

    Raises:
        ModelError: there is none.
    """
    if (folder / TOKENIZER).is_file():
        return
    if not folder.is_dir():
        raise no_folder(folder)
    if not (folder / _SENTENCEPIECE).is_file():
        raise dangling(folder / TOKENIZER) or ModelError(
            f"{folder} has no {TOKENIZER}",
            hint="save the tokenizer that it was trained with into it: "
            "AutoTokenizer.from_pretrained(BASE).save_pretrained(folder)",
        )
    name = json.dumps(str(folder), ensure_ascii=False)
    code = "from transformers import AutoTokenizer; "
    code += f"AutoTokenizer.from_pretrained({name}).save_pretrained({name})"
    raise ModelError(
        f"{folder} has no {TOKENIZER}, only SentencePiece's {_SENTENCEPIECE}, which is not read",
        hint="make the one of the other: pip install sentencepiece protobuf; "
        f"python -c {quote(code)}",
    )


def check_settings(folder: Path, *, packed: bool) -> None:
    """Check what a repository's small files say, before gigabytes of weights are fetched.

    Args:
        folder: With its ``config.json``, and the index of its weights if it has one. What they
            leave open is left to :func:`check_folder`.
        packed: Whether its weights are quantized, as far as is known (:func:`is_packed`).

    Raises:
        UnsafeCheckpointError: code of its own.
        UnsupportedArchitectureError: of another architecture.
        ModelError: it is quantized.
    """
    if not (folder / "config.json").is_file():
        return
    config = read_config(folder)
    if "architectures" in config and not is_wrapper(config):
        _supported(folder, config)
    if packed:
        raise _quantized(folder, _method(config) or "")
    _refuse_embedding(folder)


def is_packed(folder: Path) -> bool:
    """Whether a config says that it is quantized, and the index of the weights that they are.

    Beside a whole file the index is not what is read.
    """
    files = (folder / "config.json", folder / INDEX_NAME)
    if (folder / WEIGHTS_NAME).is_file():
        return False
    if not all(path.is_file() for path in files) or _method(read_config(folder)) is None:
        return False
    names = read_json_object(folder / INDEX_NAME).get("weight_map")
    return isinstance(names, Mapping) and any(
        name.rpartition(".")[2] not in _WHOLE_PARTS for name in names if not is_of_eyes(name)
    )


def _supported(folder: Path, config: Mapping[str, Any]) -> str:
    """The architecture, which is one of ours."""
    architecture = read_architecture(folder, config)
    _refuse_remote_code(folder, config, architecture)
    if architecture.endswith(_CLASSIFIERS):
        raise classifier(folder, architecture)
    if architecture not in ARCHITECTURES:
        raise UnsupportedArchitectureError(architecture, tuple(ARCHITECTURES), where=str(folder))
    return architecture


def _refuse_embedding(folder: Path) -> None:
    """Refuse what turns texts into vectors: a GGUF of it that does not say so would answer."""
    path = folder / MODULES_NAME
    if path.is_file() and "Pooling" in path.read_text(encoding="utf-8", errors="replace"):
        raise ModelError(
            f"{folder} is an embedding model of sentence-transformers ({MODULES_NAME}): it answers "
            "no texts",
            hint=f"take a model that does; if this one does, give a copy without {MODULES_NAME}",
        )


def _quantized(folder: Path, method: str) -> ModelError:
    return ModelError(
        f"{folder} is quantized ({method}): what rounding lost cannot be restored",
        hint="save it in 16 bits where it was trained (Unsloth: save_pretrained_merged(folder, "
        'tokenizer, save_method="merged_16bit")), or give the adapter and its base: --base',
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Read ``config.json``.

    Raises:
        ModelError: no folder, no such file, or not a JSON object.
    """
    return read_json_object(folder / "config.json")


def _language_model(folder: Path) -> dict[str, Any]:
    """The config; of a model that also sees, its language model's."""
    config = read_config(folder)
    if not is_wrapper(config):
        return config
    weights = open_weights(folder, config)
    with refusals_named(folder), keys_named(folder):
        return text_config(config, weights)


def read_architecture(folder: Path, config: Mapping[str, Any]) -> str:
    """The architecture that a config names; without the prefix that training in parallel left.

    Raises:
        ModelError: it names none, or several.
    """
    names = config.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise ModelError(
            f"{folder / 'config.json'}: architectures is {names!r}, expected one name",
            hint="save the model with model.save_pretrained(folder)",
        )
    return names[0].removeprefix(_PARALLEL)


def _refuse_remote_code(folder: Path, config: Mapping[str, Any], architecture: str) -> None:
    """Refuse a folder that nothing but its own code can compute.

    What has an architecture of ours may name code too, as every Phi-3 does, which was published
    before transformers had it. Nothing here runs it.
    """
    if config.get("auto_map") and architecture not in ARCHITECTURES:
        raise UnsafeCheckpointError(
            f"{folder / 'config.json'} asks for code of its own (auto_map), which is refused",
            hint=f"use a checkpoint of one of: {', '.join(ARCHITECTURES)}",
        )


def _refuse_what_holds_checkpoints(folder: Path) -> None:
    """A training's folder is none itself where only its steps were saved, nor is one of files."""
    if not folder.is_dir() or (folder / "config.json").is_file():
        return
    if pieces := pieces_of_training(folder):  # FSDP saves no config beside them
        raise pieces
    inner = [
        path.name
        for path in folder.iterdir()
        if (path / "config.json").is_file() or is_adapter(path) or pieces_of_training(path)
    ]
    if inner:
        inner.sort(key=lambda name: (int(re.sub(r"\D", "", name) or 0), name))  # -90 before -100
        raise ModelError(
            f"{folder} is not a checkpoint itself; {', '.join(inner[-3:])} in it "
            f"{'are' if len(inner) > 1 else 'is'}",
            hint=f"give that folder: {folder / inner[-1]}",
        )
    files = sorted(path.name for path in folder.glob("*.gguf"))
    if files:
        raise ModelError(
            f"{folder} has no config.json, but a GGUF file", hint=f"give it: {folder / files[0]}"
        )


def quantization_of(folder: Path) -> str | None:
    """By which method a checkpoint is quantized; None: by none, or its config only says so.

    Merging after a training in 4 bits gives whole weights and leaves the config as it was, and so
    do tools that write them in 16 bits again (mlx_lm.fuse).
    """
    if not (folder / "config.json").is_file():
        return None
    method = _method(read_config(folder))
    if method is None or (method not in _ROUNDED_WHEN_USED and has_whole_weights(folder)):
        return None
    return method


def has_whole_weights(folder: Path) -> bool:
    """Whether a folder holds every tensor that its config asks for, none packed and none more."""
    try:
        config = _language_model(folder)
        architecture = ARCHITECTURES.get(read_architecture(folder, config))
        if architecture is None:
            return False
        match_tensors(architecture, config, open_weights(folder, config))
    except (ModelError, ConversionError):
        return False
    return True


def _method(config: Mapping[str, Any]) -> str | None:
    quantization = config.get("quantization_config")
    if not quantization:
        return None
    if isinstance(quantization, Mapping):
        return str(quantization.get("quant_method", "unknown method"))
    return "unknown method"
