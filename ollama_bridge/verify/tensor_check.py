"""Holds a GGUF against the checkpoint that it should be, and names what is wrong.

For a tag whose answers are off: which number of its metadata, or which tensor, by how much, and
whether a known mistake of converters explains it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ollama_bridge.models.architectures import ARCHITECTURES, Architecture
from ollama_bridge.models.architectures.layout import Float32Array, TensorRule, permute
from ollama_bridge.models.gguf.decode import decode
from ollama_bridge.models.gguf.reader import GGUFContents, TensorInfo, read_gguf
from ollama_bridge.models.safety import check_folder, read_architecture
from ollama_bridge.models.weights.floats import to_float32
from ollama_bridge.models.weights.gguf import without_eyes
from ollama_bridge.models.weights.merged import MergedWeights
from ollama_bridge.models.weights.stored import open_weights
from ollama_bridge.models.weights.tensors import Weights
from ollama_bridge.models.weights.text_part import TEXT_ALONE
from ollama_bridge.verify.metadata_check import compare_metadata
from ollama_bridge.verify.tensor_distance import Distance, measure

_PLAIN = ("F32", "F16", "BF16")
_COMPUTED = 1e-5  # other orders of the same float32 operations
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"
_IMPORTANCE_KEY = "quantize.imatrix."
# How much of an adapter has to be missing, or too much, to be said; and how far that has to lie
# from what the rounding of the weights makes of it by chance.
_ADAPTER_SHARE = 0.2
_DEVIATIONS = 8.0


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
    compare = _Comparison(contents, weights, architecture, rules)
    wrong: list[str | None] = []
    for rule in rules.values():
        if rule.source in weights.infos:
            wrong.append(compare(rule))
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
        problem = compare(replace(rules[_EMBEDDING], target=_OUTPUT))
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
    error = measure(contents.tensor(name), values, "F32").error
    if error <= _COMPUTED:
        return None
    return f"{name}: differs by {error:.2g} of its size from what config.json makes it"


class _Comparison:
    """Holds the tensors of a GGUF against the checkpoint's, one by one."""

    def __init__(
        self,
        contents: GGUFContents,
        weights: Weights,
        architecture: Architecture,
        rules: Mapping[str, TensorRule],
    ) -> None:
        self._contents = contents
        self._weights = weights
        self._architecture = architecture
        self._rules = rules
        self._by_importance = any(key.startswith(_IMPORTANCE_KEY) for key in contents.metadata)
        self._looked_elsewhere = False

    def __call__(self, rule: TensorRule) -> str | None:
        """What is wrong with a tensor; None: nothing."""
        info = self._contents.tensors.get(rule.target)
        if info is None:
            instead = ", so that the embedding stands for it" if rule.target == _OUTPUT else ""
            return f"{rule.target}: missing{instead}"
        if info.shape != rule.shape:
            return f"{rule.target}: shape {info.shape}, the checkpoint's is {rule.shape}"
        found = self._read(info)
        if found is None:
            largest = ", for F16 ends at 65504" if info.type == "F16" else ""
            return f"{rule.target}: holds values that are not finite{largest}"
        expected = self._values(rule)
        gap = self._measure(found, expected, info.type)
        if gap.is_rounding and not self._may_hide_an_adapter(info.type):
            return None
        adapter = self._adapter(rule, found, expected, info.type)
        if adapter is not None or gap.is_rounding:
            return None if adapter is None else f"{rule.target}: {adapter}"
        source = to_float32(self._weights.array(rule.source))
        for mistake, values in _mistakes(rule, self._architecture).items():
            if self._measure(found, values(source), info.type).is_rounding:
                return f"{rule.target}: {mistake}"
        elsewhere = self._elsewhere(rule, found, info.type)
        return f"{rule.target}: {elsewhere or gap.describe(info.type)}"

    def _read(self, info: TensorInfo) -> Float32Array | None:
        """The values of a tensor; None: some are not finite."""
        try:
            values, finite = decode(self._contents.encoded(info.name), info.type)
        except NotImplementedError:
            return self._contents.tensor(info.name)  # raises what says so
        return values.reshape(info.shape) if finite else None

    def _measure(self, found: Float32Array, expected: Float32Array, type_: str) -> Distance:
        return measure(found, expected, type_, whole_rows=self._by_importance)

    def _values(self, rule: TensorRule) -> Float32Array:
        return _exported(rule, to_float32(self._weights.array(rule.source)))

    def _elsewhere(self, rule: TensorRule, found: Float32Array, type_: str) -> str | None:
        """The layer that a tensor is of; looked for once, for that reads one of every layer."""
        if self._looked_elsewhere or not rule.target.startswith("blk."):
            return None
        self._looked_elsewhere = True
        part = rule.target.split(".", 2)[2]
        for other in self._rules.values():
            is_alike = other.target.endswith(f".{part}") and other.shape == rule.shape
            if (
                not is_alike
                or other.target == rule.target
                or other.source not in self._weights.infos
            ):
                continue
            if self._measure(found, self._values(other), type_).is_rounding:
                return f"it is the checkpoint's {other.target}"
        return None

    def _may_hide_an_adapter(self, type_: str) -> bool:
        """Blocks round by more than an adapter changes.

        Numbers that lie on the grid of their type already fall back to it: a weak adapter is lost
        then by rounding, and by nobody's mistake.
        """
        return type_ not in _PLAIN and not self._weights.quantized

    def _adapter(
        self, rule: TensorRule, found: Float32Array, expected: Float32Array, type_: str
    ) -> str | None:
        """How often an adapter is in a tensor, if it is not once."""
        weights = self._weights
        base = weights.base_array(rule.source) if isinstance(weights, MergedWeights) else None
        if base is None or base.shape != rule.shape:
            return None
        change = (expected - _exported(rule, to_float32(base))).reshape(-1)
        off = (found - expected).reshape(-1)
        size = float(change @ change)
        share = float(off @ change) / size if size else 0.0
        if abs(share) <= _ADAPTER_SHARE:
            return None
        off -= np.float32(share) * change
        chance = float(np.linalg.norm(off)) / (size * off.size) ** 0.5
        explained = expected + np.float32(share) * change.reshape(expected.shape)
        if (
            abs(share) < _DEVIATIONS * chance
            or not self._measure(found, explained, type_).is_rounding
        ):
            return None
        if abs(share + 1) < _ADAPTER_SHARE:
            return "the adapter is not in it"
        often = "twice, or with twice its lora_alpha" if abs(share - 1) < _ADAPTER_SHARE else None
        return f"the adapter is in it {often or f'{1 + share:.1f} times'}"


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
