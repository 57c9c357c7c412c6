"""A model whose matrices are what a GGUF would decode to: encoded and decoded, one by one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from gguf.constants import GGMLQuantizationType
from torch import Tensor

from ollama_bridge.conversion.encoding import Encode, pieces, searching_encoder
from ollama_bridge.models.architectures.layout import TensorRule
from ollama_bridge.models.gguf.decode import decode
from ollama_bridge.models.weights.tensors import Weights
from ollama_bridge.quantization.encoders import Float32Array

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class RoundTrip:
    """Sets the types of a model's matrices.

    Memory: the model, and a matrix more; the exact numbers are read again when they are needed.

    Args:
        model: In float32; its weights are changed.
        rules: Of its matrices.
        weights: The exact numbers.
        importance: (columns,) weights of errors by name in the GGUF.
        encode: Of a pool, or in this process.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        rules: Sequence[TensorRule],
        weights: Weights,
        importance: Mapping[str, Float32Array],
        encode: Encode,
    ) -> None:
        self.model = model
        self.rules = {rule.target: rule for rule in rules}
        self._weights = weights
        self._importance = importance
        self._encode = encode
        self._now: dict[str, GGMLQuantizationType] = {}

    @classmethod
    @contextlib.contextmanager
    def opened(
        cls,
        model: PreTrainedModel,
        rules: Sequence[TensorRule],
        weights: Weights,
        importance: Mapping[str, Float32Array],
    ) -> Iterator[Self]:
        """One that encodes in as many processes as the work is worth."""
        with searching_encoder([rule.shape for rule in rules]) as encode:
            yield cls(model, rules, weights, importance, encode)

    def parameter(self, name: str) -> torch.nn.Parameter:
        """The model's parameter that a tensor of the GGUF is made of."""
        return self.model.get_parameter(self.rules[name].source)

    def exact(self, name: str) -> Tensor:
        """A matrix as the checkpoint has it, in float32; rows as the model has them."""
        return self._weights.tensor(self.rules[name].source).float()

    def rounded(self, name: str, values: Tensor, type_: GGMLQuantizationType) -> Tensor:
        """Rows of a matrix as a GGUF of one type decodes."""
        encoded = [
            piece.reshape(-1).copy()
            for piece in self._encode(
                pieces(name, values.numpy(), type_, self._importance.get(name))
            )
        ]
        decoded, _ = decode(np.concatenate(encoded), type_.name)
        return torch.from_numpy(decoded).reshape(values.shape)

    def set(self, types: Mapping[str, GGMLQuantizationType]) -> None:
        """Give the model the matrices of a plan; those that have their type already stay."""
        for name, type_ in types.items():
            if name in self.rules and self._now.get(name) != type_:
                values = self.rounded(name, self.exact(name), type_)
                with torch.no_grad():
                    self.parameter(name).copy_(values)
                self._now[name] = type_
