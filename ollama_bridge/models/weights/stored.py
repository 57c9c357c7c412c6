"""How the weights of a checkpoint's folder are stored, and one way to open them all.

model.safetensors, or shards    as transformers saves them
model.gguf                      of an import: decoded when read
adapters/1/, ...                on top of either: merged when read

The language model of one that also sees lies there under the wrapper's names: renamed when read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ollama_bridge.errors import UnsafeCheckpointError
from ollama_bridge.models.architectures.layout import OUTPUT
from ollama_bridge.models.weights.files import INDEX_NAME, WEIGHTS_NAME, weights_files
from ollama_bridge.models.weights.floats import F32
from ollama_bridge.models.weights.gguf import GGUF_NAME, GGUFWeights
from ollama_bridge.models.weights.lora import Adapter
from ollama_bridge.models.weights.merged import MergedWeights
from ollama_bridge.models.weights.tensors import SafetensorsWeights, Weights
from ollama_bridge.models.weights.text_part import TextWeights, is_wrapped

ADAPTERS_NAME = "adapters"

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
# What a Trainer of transformers saves beside the weights.
_STATE = ("training_args.", "optimizer.", "scheduler.", "rng_state", "scaler.")


def is_plain(folder: Path) -> bool:
    """Whether transformers itself can read a checkpoint's weights as its config has them."""
    if gguf_of(folder) is not None or adapters_of(folder):
        return False
    return not isinstance(_base_weights(folder), TextWeights)


def open_weights(folder: Path, config: Mapping[str, Any]) -> Weights:
    """Open the weights of a checkpoint, or say why there are none.

    Raises:
        UnsafeCheckpointError: there are weights only as pickle.
        ModelError: there are none, or a file is truncated or damaged.
    """
    weights = _base_weights(folder)
    for path in adapters_of(folder):
        # An output matrix that the config asks for and the base has not was its embedding.
        tied = bool(config.get("tie_word_embeddings")) or OUTPUT not in weights.infos
        weights = MergedWeights(weights, Adapter(path), tied=tied)
    return weights


def count_parameters(folder: Path, config: Mapping[str, Any]) -> int:
    """How many numbers a checkpoint's tensors hold; no weights are read.

    Raises:
        UnsafeCheckpointError: there are weights only as pickle.
        ModelError: there are none, or a file is truncated or damaged.
    """
    return sum(math.prod(info.shape) for info in open_weights(folder, config).infos.values())


def is_mapped(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether a checkpoint in float32 is its files: nothing is decoded, converted or merged.

    Raises:
        ModelError: as :func:`open_weights`.
    """
    infos = open_weights(folder, config).infos.values()
    return is_plain(folder) and all(info.dtype == F32 for info in infos)


def weights_files_of(folder: Path) -> list[Path]:
    """The files that :func:`open_weights` reads, without adapters.

    Raises:
        ModelError: there are none, or a shard is missing.
    """
    gguf = gguf_of(folder)
    return weights_files(folder) if gguf is None else [gguf]


def gguf_of(folder: Path) -> Path | None:
    """The GGUF that holds the weights of an import, below its adapters if it has any."""
    path = folder / GGUF_NAME
    return path if path.is_file() and not _has_safetensors(folder) else None


def adapters_of(folder: Path) -> list[Path]:
    """The adapters on top of a checkpoint's base, in order."""
    numbered = (path for path in (folder / ADAPTERS_NAME).glob("*") if path.name.isdecimal())
    return sorted(numbered, key=lambda path: int(path.name))


def _has_safetensors(folder: Path) -> bool:
    return (folder / WEIGHTS_NAME).is_file() or (folder / INDEX_NAME).is_file()


def _base_weights(folder: Path) -> Weights:
    gguf = gguf_of(folder)
    if gguf is not None:
        return GGUFWeights(gguf)
    if not _has_safetensors(folder):
        pickles = sorted(
            path.name
            for pattern in _PICKLES
            for path in folder.glob(pattern)
            if not path.name.startswith(_STATE)
        )
        if pickles:
            raise UnsafeCheckpointError(
                f"{folder} holds its weights only as pickle ({', '.join(pickles)}); opening one "
                "runs whatever code is in it, so it is refused",
                hint="convert it where you trust it: load it with transformers and call "
                "model.save_pretrained(folder)",
            )
    weights = SafetensorsWeights.of_folder(folder)
    return TextWeights(weights) if is_wrapped(weights) else weights
