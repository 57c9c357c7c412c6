"""The weights of a base and an adapter: merged in float32 when they are read, never stored.

Memory is bounded by the largest matrix, and there is no second copy of the model on disk.
"""

from __future__ import annotations

from pathlib import Path

from ollama_bridge.errors import ModelError
from ollama_bridge.models.architectures.layout import EMBEDDING, OUTPUT
from ollama_bridge.models.weights.floats import F32, Array
from ollama_bridge.models.weights.lora import Adapter
from ollama_bridge.models.weights.tensors import WeightInfo, Weights


class MergedWeights(Weights):
    """The tensors of an adapted model.

    Args:
        adapter: What is done to them.
        tied: Whether the base's output matrix is its embedding.

    Raises:
        ModelError: the adapter does not fit the base.
    """

    def __init__(self, base: Weights, adapter: Adapter, *, tied: bool) -> None:
        adapter.check_fit(base.infos)
        self._base = base
        self._adapter = adapter
        self._infos = dict(base.infos)
        if adapter.unties(tied=tied):
            self._infos[OUTPUT] = base.infos[EMBEDDING]
        elif tied:
            self._infos.pop(OUTPUT, None)  # the same matrix twice
        self._changed = adapter.changes.keys() & self._infos.keys()
        for name in self._changed:
            shape = adapter.shape_of(name, self._infos[name].shape)
            self._infos[name] = WeightInfo(shape, F32)

    @property
    def place(self) -> Path:
        """The base's."""
        return self._base.place

    @property
    def quantized(self) -> frozenset[str]:
        """The block types of the base."""
        return self._base.quantized

    @property
    def changed(self) -> int:
        """How many parameters the adapter changes."""
        return len(self._changed)

    def array(self, name: str) -> Array:
        """Read one tensor, merged.

        Raises:
            ModelError: there is no such tensor.
        """
        if name not in self._infos:
            raise ModelError(f"tensor {name!r} is missing from the checkpoint")
        source = self._source_of(name)
        if name not in self._changed:
            return self._base.array(source)
        merged: Array = self._adapter.apply(name, self._base.tensor(source)).numpy()
        return merged

    def base_array(self, name: str) -> Array | None:
        """The base's values of a tensor; None: the adapter leaves it as it is."""
        return self._base.array(self._source_of(name)) if name in self._changed else None

    def _source_of(self, name: str) -> str:
        """An output matrix that the base has not was its embedding."""
        return EMBEDDING if name == OUTPUT and OUTPUT not in self._base.infos else name
