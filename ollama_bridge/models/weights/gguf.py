"""The weights of a checkpoint that is a GGUF: decoded when they are read, never stored again.

A model of 1.5 billion parameters in Q4_K is 1 GB as a GGUF and 6 GB as float32: decoding it is
faster than reading those back. Values come as float32 (F16 and BF16 stay what they are); what the
architecture's rules do to a tensor on its way into a GGUF is undone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ollama_bridge.errors import (
    ConversionError,
    GGUFError,
    ModelError,
    UnsupportedArchitectureError,
)
from ollama_bridge.models.architectures import GGUF_ARCHITECTURES, Architecture
from ollama_bridge.models.architectures.keys import Keys
from ollama_bridge.models.architectures.layout import TensorRule, unpermute
from ollama_bridge.models.gguf.reader import GGUFContents, read_gguf
from ollama_bridge.models.weights.floats import BF16, F16, F32, Array, to_bfloat16
from ollama_bridge.models.weights.tensors import WeightInfo, Weights

GGUF_NAME = "model.gguf"  # in the folder of such a checkpoint
_KEPT_TYPES = {"F16": F16, "BF16": BF16}


class GGUFWeights(Weights):
    """The tensors of a GGUF under the names that transformers has for them.

    Attributes:
        contents: What the file holds of the language model.
        architecture: Its architecture.
        config: The part of ``config.json`` that its metadata and tensors decide.
        also_sees: Whether the file holds more, which sees.

    Raises:
        GGUFError: damaged, or parts contradict each other.
        UnsupportedArchitectureError: no architecture that can be trained here.
    """

    def __init__(self, path: Path) -> None:
        contents = read_gguf(path)
        _refuse_part(contents)
        _refuse_embedding(contents)
        self.architecture = _architecture_of(contents)
        self.contents = without_eyes(contents, self.architecture)
        self.also_sees = len(self.contents.tensors) < len(contents.tensors)
        self.config = self.architecture.config(Keys(self.contents, self.architecture.name))
        try:
            self.architecture.check(self.config)
            self._rules = _rules(self.contents, self.architecture, self.config)
        except ConversionError as exc:  # the metadata, not a config.json, say so here
            raise GGUFError(f"{path}: {exc.message}") from exc
        self._infos = {
            name: WeightInfo(rule.shape, self._dtype(rule)) for name, rule in self._rules.items()
        }

    @property
    def place(self) -> Path:
        """The GGUF."""
        return self.contents.path

    @property
    def quantized(self) -> frozenset[str]:
        """The block types in the file."""
        types = {info.type for info in self.contents.tensors.values()}
        return frozenset(types - {"F64", "F32", *_KEPT_TYPES})

    def array(self, name: str) -> Array:
        """Decode one tensor.

        Raises:
            ModelError: there is no such tensor.
            GGUFError: it cannot be decoded, or holds values that are not finite.
        """
        rule = self._rules.get(name)
        if rule is None:
            raise ModelError(f"tensor {name!r} is missing from the checkpoint")
        values = self.contents.tensor(rule.target)
        if rule.heads is not None:
            values = unpermute(values, rule.heads)
        if rule.shift:
            values = values - np.float32(rule.shift)
        values = np.ascontiguousarray(values)
        dtype = self._dtype(rule)
        return to_bfloat16(values) if dtype == BF16 else values.astype(dtype, copy=False)

    def _dtype(self, rule: TensorRule) -> np.dtype[Any]:
        return _KEPT_TYPES.get(self.contents.tensors[rule.target].type, F32)


def without_eyes(contents: GGUFContents, architecture: Architecture) -> GGUFContents:
    """The language model alone, where Ollama's converter put into one file what also sees.

    Source: ``handle_gemma3`` of Ollama's ``llama/compat`` (0.34).
    """
    tensors = {
        name: info
        for name, info in contents.tensors.items()
        if not name.startswith(architecture.eyes)
    }
    return replace(contents, tensors=tensors)


def _refuse_part(contents: GGUFContents) -> None:
    if contents.metadata.get("general.type") == "adapter":
        raise GGUFError(
            f"{contents.path} is a LoRA adapter, and no model",
            hint="give the PEFT folder that it was made of, which is merged into its base: "
            "ollama-bridge package FOLDER TAG --base MODEL",
        )
    parts = contents.metadata.get("split.count")
    if isinstance(parts, int) and parts > 1:
        raise GGUFError(
            f"{contents.path} is one of {parts} parts of a model",
            hint="put them together with llama.cpp: llama-gguf-split --merge "
            "NAME-00001-of-....gguf WHOLE.gguf",
        )


def _refuse_embedding(contents: GGUFContents) -> None:
    """Refuse what turns texts into vectors: what is made of it would lose that without a word."""
    name, metadata = contents.metadata.get("general.architecture"), contents.metadata
    pools, causal = metadata.get(f"{name}.pooling_type"), metadata.get(f"{name}.attention.causal")
    if pools or causal is False:
        raise GGUFError(
            f"{contents.path} is an embedding model ({name}.pooling_type {pools}): it answers no "
            "texts",
            hint="start from a model that does; this one Ollama serves as it is",
        )


def _architecture_of(contents: GGUFContents) -> Architecture:
    name = contents.metadata.get("general.architecture")
    architecture = GGUF_ARCHITECTURES.get(name) if isinstance(name, str) else None
    if architecture is None:
        raise UnsupportedArchitectureError(
            str(name), tuple(sorted(GGUF_ARCHITECTURES)), where=str(contents.path)
        )
    return architecture


def _rules(
    contents: GGUFContents, architecture: Architecture, config: Mapping[str, Any]
) -> dict[str, TensorRule]:
    """The rule of every tensor of the checkpoint; all of the file's must be used.

    Raises:
        GGUFError: a tensor is missing, left over, or of another shape.
    """
    left = set(contents.tensors) - set(architecture.computed(config))
    rules = {}
    for rule in architecture.rules(config):
        if rule.target not in left:
            if rule.optional:
                continue
            raise GGUFError(f"{contents.path}: tensor {rule.target!r} is missing")
        shape = contents.tensors[rule.target].shape
        if shape != rule.shape:
            raise GGUFError(
                f"{contents.path}: tensor {rule.target!r} has shape {shape}, "
                f"the metadata say {rule.shape}"
            )
        left.discard(rule.target)
        rules[rule.source] = rule
    if left:
        raise GGUFError(
            f"{contents.path}: tensors that {architecture.name} does not have: "
            f"{', '.join(sorted(left)[:3])}"
        )
    return rules
