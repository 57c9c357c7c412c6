"""Holds a GGUF against the checkpoint that it should be, and names what is wrong.

For a tag whose answers are off: which number of its metadata, or which tensor, by how much, and
whether a known mistake of converters explains it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ollama_bridge.errors import GGUFError
from ollama_bridge.models.architectures import ARCHITECTURES, Architecture
from ollama_bridge.models.architectures.frame import Float32Array, TensorRule, permute
from ollama_bridge.models.floats import to_float32
from ollama_bridge.models.gguf_reader import GGUFContents, read_gguf
from ollama_bridge.models.gguf_weights import without_eyes
from ollama_bridge.models.metadata_check import compare_metadata
from ollama_bridge.models.safety import check_folder, read_architecture
from ollama_bridge.models.stored import open_weights
from ollama_bridge.models.text_part import TEXT_ALONE
from ollama_bridge.models.weights import Weights

# Relative error (of the Euclidean norm) that rounding to a type was seen to stay below, doubled.
_ROUNDING = {"F32": 1e-6, "F16": 2e-3, "BF16": 8e-3, "Q8_0": 0.02, "Q6_K": 0.05, "Q2_K": 0.7}
_PIECE = 2**22
_COARSE_ROUNDING = 0.4  # types of three to five bits
_COMPUTED = 1e-5  # other orders of the same float32 operations
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"


@dataclass(frozen=True)
class TensorReport:
    """What the tensors of a GGUF are, held against a checkpoint.

    Attributes:
        wrong: Every one that is not the checkpoint's, that is missing or that only the GGUF has.
        notes: What is otherwise than in the checkpoint, and sound.
        metadata: Every number of the architecture that is not the checkpoint's, where a runtime
            computes with it.
    """

    wrong: tuple[str, ...]
    notes: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()


def compare_tensors(gguf: Path, checkpoint: Path) -> TensorReport:
    """Hold every tensor of either side against the other, and the metadata.

    Raises:
        GGUFError, ModelError: one of them cannot be read.
        ConversionError: the checkpoint cannot be a GGUF at all.
    """
    contents = read_gguf(gguf)
    config = check_folder(checkpoint)
    architecture = ARCHITECTURES[read_architecture(checkpoint, config)]
    found_name = contents.metadata.get("general.architecture")
    if found_name != architecture.name:
        return TensorReport((f"the GGUF is a {found_name}, the checkpoint a {architecture.name}",))
    every = len(contents.tensors)
    contents = without_eyes(contents, architecture)
    notes = [TEXT_ALONE] if len(contents.tensors) < every else []
    weights = open_weights(checkpoint, config)
    rules = {rule.target: rule for rule in architecture.rules(config)}
    computed = architecture.computed(config)
    wrong: list[str | None] = []
    for rule in rules.values():
        if rule.source in weights.infos:
            wrong.append(_compare(rule, contents, weights, architecture))
        elif not rule.optional:
            wrong.append(f"{rule.target}: the checkpoint has no {rule.source}")
        elif rule.target in contents.tensors:
            wrong.append(f"{rule.target}: only the GGUF has it")
    wrong += [_compare_computed(name, values, contents) for name, values in computed.items()]
    for name in sorted(contents.tensors.keys() - rules.keys() - computed.keys()):
        if name != _OUTPUT:
            wrong.append(f"{name}: only the GGUF has it")
            continue
        # Of a model that ties both matrices: llama.cpp takes this one, where it is there.
        tied = replace(rules[_EMBEDDING], target=_OUTPUT)
        problem = _compare(tied, contents, weights, architecture)
        if problem is None:
            notes.append(f"{_OUTPUT}: a copy of the embedding, which the checkpoint ties it to")
        else:
            wrong.append(f"{problem}; the checkpoint has none, its embedding stands for it")
    return TensorReport(
        tuple(one for one in wrong if one is not None),
        tuple(notes),
        tuple(compare_metadata(contents, config, architecture)),
    )


def _compare_computed(name: str, values: Float32Array, contents: GGUFContents) -> str | None:
    """A tensor that is made of the config's numbers."""
    info = contents.tensors.get(name)
    if info is None:
        return f"{name}: missing, which config.json asks for"
    if info.shape != values.shape:
        return f"{name}: shape {info.shape}, config.json makes it {values.shape}"
    error = _distance(contents.tensor(name), values)
    if error <= _COMPUTED:
        return None
    return f"{name}: differs by {error:.2g} of its size from what config.json makes it"


def _compare(
    rule: TensorRule, contents: GGUFContents, weights: Weights, architecture: Architecture
) -> str | None:
    info = contents.tensors.get(rule.target)
    if info is None:
        return f"{rule.target}: missing"
    if info.shape != rule.shape:
        return f"{rule.target}: shape {info.shape}, the checkpoint's is {rule.shape}"
    found = contents.tensor(rule.target)
    source = to_float32(weights.array(rule.source))
    bound = _ROUNDING.get(info.type, _COARSE_ROUNDING)
    error = _distance(found, _exported(rule, source))
    if error <= bound:
        return None
    for mistake, values in _mistakes(rule, architecture).items():
        if _distance(found, values(source)) <= bound:
            return f"{rule.target}: {mistake}"
    return f"{rule.target}: differs by {error:.2g} of its size ({info.type} rounds by {bound:.2g})"


def _exported(rule: TensorRule, source: Float32Array) -> Float32Array:
    values: Float32Array = source if rule.heads is None else permute(source, rule.heads)
    return values + np.float32(rule.shift) if rule.shift else values


def _mistakes(
    rule: TensorRule, architecture: Architecture
) -> dict[str, Callable[[Float32Array], Float32Array]]:
    """What converters get wrong, and the values that come of it."""
    mistakes: dict[str, Callable[[Float32Array], Float32Array]] = {}
    if rule.heads is not None:
        mistakes["its rows are in the checkpoint's order, not in llama.cpp's"] = _unchanged
    if rule.shift:
        mistakes[f"{rule.shift:g} was not added, as {architecture.name} needs it"] = _unchanged
    elif len(rule.shape) == 1:
        mistakes["off by one, as only a Gemma's norms are"] = lambda values: values + 1
        mistakes["all ones: the checkpoint's values are lost"] = np.ones_like
    return mistakes


def _unchanged(values: Float32Array) -> Float32Array:
    return values


def _distance(found: Float32Array, expected: Float32Array) -> float:
    if found.shape != expected.shape:
        raise GGUFError(f"shapes {found.shape} and {expected.shape} cannot be compared")
    size = gap = 0.0
    ours, theirs = expected.reshape(-1), found.reshape(-1)
    for begin in range(0, ours.size, _PIECE):  # in float64, but not all of an embedding at once
        wanted = ours[begin : begin + _PIECE].astype(np.float64)
        off = theirs[begin : begin + _PIECE] - wanted
        size, gap = size + float(wanted @ wanted), gap + float(off @ off)
    size, gap = math.sqrt(size), math.sqrt(gap)
    if not math.isfinite(gap):
        return math.inf
    return gap / size if size else gap
