"""Models that an adapter is not merged into: they are rounded, what it was trained on was not."""

from __future__ import annotations

from pathlib import Path

from ollama_bridge.errors import ModelError
from ollama_bridge.models.safety import quantization_of, read_config
from ollama_bridge.models.weights.adapter_folder import naming_hint
from ollama_bridge.models.weights.stored import open_weights
from ollama_bridge.storage.artifacts import Checkpoint


def refuse_quantized(adapter: Path, name: str, folder: Path) -> None:
    """Refuse a base whose own config says that it is quantized.

    Raises:
        ModelError: it is.
    """
    method = quantization_of(folder)
    if method is not None:
        raise ModelError(
            f"{adapter} is an adapter of {name!r}, which is quantized ({method}): it has to be "
            "merged into the model that the quantized one was made from",
            hint=naming_hint(adapter, named=name, quantized=True),
        )


def refuse_rounded(adapter: Path, name: str, base: Checkpoint) -> None:
    """Refuse a GGUF of few bits: nobody trained an adapter on what it decodes to.

    Raises:
        ModelError: it is one.
    """
    types = open_weights(base.path, read_config(base.path)).quantized
    if types:
        raise ModelError(
            f"{name} is rounded to {', '.join(sorted(types))}: {adapter} has to be merged into "
            "the model that the rounded one was made from",
            hint=f"{naming_hint(adapter)}; of a tag in Ollama use the 16-bit one (NAME-fp16)",
        )
