"""What a budget or a size is spent on: a model's matrices, and the bytes of what has no choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from gguf.constants import GGMLQuantizationType

from ollama_bridge.conversion.budget_search import Target, check_tensors
from ollama_bridge.models.architectures import ARCHITECTURES, Architecture
from ollama_bridge.models.architectures.config import Config
from ollama_bridge.models.architectures.layout import OUTPUT, TensorRule
from ollama_bridge.models.safety import check_folder, read_architecture
from ollama_bridge.models.weights.stored import open_weights
from ollama_bridge.models.weights.tensor_match import match_tensors
from ollama_bridge.models.weights.tensors import Weights
from ollama_bridge.quantization.encoders import Float32Array, encoded_size
from ollama_bridge.quantization.mixes import ModelShape, TypePlan, plan_types
from ollama_bridge.quantization.tradeoff import candidate_types
from ollama_bridge.storage.artifacts import Checkpoint


@dataclass(frozen=True)
class Model:
    """What is to be quantized.

    Attributes:
        shape: What presets depend on.
        shapes: Of all tensors by name in the GGUF, rows first.
        rules: Of those that are in the checkpoint.
        weights: The exact numbers.
        importance: (columns,) weights of errors by name in the GGUF.
        tied: The output matrix is the embedding.
    """

    folder: Path
    shape: ModelShape
    shapes: Mapping[str, tuple[int, ...]]
    rules: Sequence[TensorRule]
    weights: Weights
    importance: Mapping[str, Float32Array]
    tied: bool

    @classmethod
    def of(
        cls,
        folder: Path,
        architecture: Architecture,
        config: Config,
        weights: Weights,
        importance: Mapping[str, Float32Array],
        *,
        cut: Config | None = None,
    ) -> Self:
        """A checkpoint whose config and weights were read; of the weights only their shapes are.

        Args:
            cut: The config of a student that will be cut out of it and converted in its place.

        Raises:
            ModelError: a weight is missing, left over or of another shape.
        """
        rules = match_tensors(architecture, config, weights)
        if cut is not None:
            config, there = cut, {rule.source for rule in rules}
            rules = [rule for rule in architecture.rules(cut) if rule.source in there]
        dims = architecture.dimensions(config)
        computed = architecture.computed(config)
        return cls(
            folder,
            ModelShape(architecture.name, dims.layers, dims.heads, dims.kv_heads),
            {rule.target: rule.shape for rule in rules}
            | {name: values.shape for name, values in computed.items()},
            rules,
            weights,
            importance,
            tied=architecture.tied(config),
        )

    def plan(self, file_type: str) -> dict[str, GGMLQuantizationType]:
        """A preset."""
        return plan_types(file_type, self.shapes, self.shape, with_importance=bool(self.importance))

    @property
    def matrices(self) -> list[TensorRule]:
        """Rules of the tensors that have a choice."""
        plain = self.plan("f16")
        return [rule for rule in self.rules if plain[rule.target] == GGMLQuantizationType.F16]

    def of_matrices(self, types: TypePlan) -> dict[str, GGMLQuantizationType]:
        """What a plan says of the tensors that have a choice."""
        return {rule.target: types[rule.target] for rule in self.matrices}

    def by_source(self, types: TypePlan) -> dict[str, GGMLQuantizationType]:
        """Types by name in the checkpoint."""
        by_source = {rule.source: types[rule.target] for rule in self.matrices}
        if self.tied:
            by_source[OUTPUT] = types["token_embd.weight"]
        return by_source

    def size_bytes(self, types: TypePlan) -> int:
        """Of all tensors in the types of a plan."""
        return sum(encoded_size(shape, types[name]) for name, shape in self.shapes.items())

    def smallest_bytes(self, *, coarse: bool) -> int:
        """Of all matrices, each in its smallest type."""
        return sum(
            min(
                encoded_size(rule.shape, type_)
                for type_ in candidate_types(rule.shape[-1], coarse=coarse)
            )
            for rule in self.matrices
        )

    def unchosen_bytes(self) -> int:
        """Of norms and biases, which have no choice."""
        chosen = {rule.target for rule in self.matrices}
        plain = self.plan("f16")
        return sum(
            encoded_size(shape, plain[name])
            for name, shape in self.shapes.items()
            if name not in chosen
        )


def check_reachable(checkpoint: Checkpoint, target: Target, *, cut: Config | None = None) -> None:
    """Refuse a size that no file of these weights has, before anything is computed for it.

    Only their shapes are read. What else is in a file (its tokenizer, say) is not counted, so what
    passes may still be refused by ``choose_types``, which knows all of it.

    Args:
        checkpoint: What is to be converted.
        target: A budget or a size.
        cut: The config of a student that will be cut out of it and converted in its place.

    Raises:
        ModelError: the folder cannot be used.
        ConversionError: the size cannot be kept.
    """
    if target.size_bytes is None:
        return
    config = check_folder(checkpoint.path)
    architecture = ARCHITECTURES[read_architecture(checkpoint.path, config)]
    weights = open_weights(checkpoint.path, config)
    model = Model.of(checkpoint.path, architecture, config, weights, importance={}, cut=cut)
    check_tensors(target, model.unchosen_bytes() + model.smallest_bytes(coarse=True))
