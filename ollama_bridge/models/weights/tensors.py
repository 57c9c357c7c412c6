"""The tensors of a checkpoint, read one at a time; safetensors are read here.

Memory is bounded by the largest tensor, whatever the size of the model. Files are checked when
they are opened: the format carries no code, but a truncated file must be an error at once and
not in the middle of a stage.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from ollama_bridge.errors import ModelError
from ollama_bridge.models.paths import lfs_hint
from ollama_bridge.models.weights.files import weights_files
from ollama_bridge.models.weights.floats import BF16, F16, F32, F64, Array

if TYPE_CHECKING:
    import torch

_AGAIN = "get the checkpoint again"
_DTYPES: dict[str, np.dtype[Any]] = {"F64": F64, "F32": F32, "F16": F16, "BF16": BF16}


@dataclass(frozen=True)
class WeightInfo:
    """Shape and type (one of :mod:`ollama_bridge.models.weights.floats`) of one tensor."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size_bytes(self) -> int:
        """Length of its data."""
        return math.prod(self.shape) * self.dtype.itemsize


class Weights(abc.ABC):
    """The tensors of a checkpoint, whatever they are made of."""

    _infos: dict[str, WeightInfo]

    @property
    def infos(self) -> Mapping[str, WeightInfo]:
        """Every tensor's shape and type, by name."""
        return self._infos

    @property
    @abc.abstractmethod
    def place(self) -> Path:
        """The file that they are in, or the folder of several; for messages."""

    @property
    def quantized(self) -> frozenset[str]:
        """The GGUF block types that values were decoded from: they are rounded already."""
        return frozenset()

    @abc.abstractmethod
    def array(self, name: str) -> Array:
        """Read, decode or merge one tensor; writing into it changes no file.

        Raises:
            ModelError: there is no such tensor, or its file is damaged.
        """

    def tensor(self, name: str) -> torch.Tensor:
        """The same as a tensor of torch.

        Raises:
            ModelError: there is no such tensor, or its file is damaged.
        """
        import torch

        values = self.array(name)
        tensor = torch.from_numpy(values.view(np.int16) if values.dtype == BF16 else values)
        return tensor.view(torch.bfloat16) if values.dtype == BF16 else tensor


class SafetensorsWeights(Weights):
    """The tensors of a checkpoint's safetensors files.

    Args:
        files: The files; names must not repeat.

    Raises:
        ModelError: a file is truncated, damaged, or holds a type that is no weight.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._paths = tuple(files)
        self._files: dict[str, Path] = {}
        self._infos = {}
        self._offsets: dict[str, int] = {}
        for path in files:
            self._add(path)

    @classmethod
    def of_folder(cls, folder: Path) -> SafetensorsWeights:
        """Open ``model.safetensors``, or the shards that its index names.

        Raises:
            ModelError: there are none, a shard is missing, or a file is damaged.
        """
        return cls(weights_files(folder))

    @property
    def place(self) -> Path:
        """The file, or the folder of the shards."""
        return self._paths[0] if len(self._paths) == 1 else self._paths[0].parent

    def array(self, name: str) -> Array:
        """Map one tensor; it is read where it is used, and let go with its array.

        Raises:
            ModelError: there is no such tensor, or its file is damaged.
        """
        path = self._files.get(name)
        if path is None:
            raise ModelError(f"tensor {name!r} is missing from the checkpoint")
        info = self._infos[name]
        if not info.size_bytes:
            return np.empty(info.shape, info.dtype)
        try:
            # A text: of a Path numpy looks at every folder above it, for each tensor.
            mapped = np.memmap(str(path), info.dtype, "c", self._offsets[name], info.shape)
        except (OSError, ValueError) as exc:
            raise ModelError(f"{path} is truncated or damaged: {exc}", hint=_AGAIN) from exc
        return np.require(mapped.view(np.ndarray), requirements="A")

    def _add(self, path: Path) -> None:
        try:
            with path.open("rb") as stream:
                offset = 8 + int.from_bytes(stream.read(8), "little")  # the header's end
            with safe_open(str(path), framework="np") as file:
                # In the order of their data, between which the format leaves no gap.
                for name in file.offset_keys():
                    piece = file.get_slice(name)
                    dtype = _DTYPES.get(piece.get_dtype())
                    if dtype is None:
                        raise ModelError(
                            f"{path}: tensor {name!r} has type {piece.get_dtype()}, expected "
                            f"{', '.join(_DTYPES)}",
                            hint="start from a checkpoint that is not quantized",
                        )
                    if name in self._infos:
                        raise ModelError(
                            f"tensor {name!r} is in {self._files[name]} and {path}: which one "
                            "counts, nobody says",
                            hint="get the checkpoint again, or save it with what wrote it",
                        )
                    info = WeightInfo(tuple(piece.get_shape()), dtype)
                    self._infos[name], self._files[name] = info, path
                    self._offsets[name] = offset
                    offset += info.size_bytes
        except (SafetensorError, OSError) as exc:
            raise ModelError(
                f"{path} is truncated or damaged: {exc}", hint=lfs_hint(path) or _AGAIN
            ) from exc
