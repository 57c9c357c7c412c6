"""The tensors of a checkpoint, read one at a time; safetensors are read and written here.

Memory is bounded by the largest tensor, whatever the size of the model. Files are checked when
they are opened: the format carries no code, but a truncated file must be an error at once and
not in the middle of a stage.
"""

from __future__ import annotations

import abc
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ollama_bridge.artifacts import raise_if_disk_full
from ollama_bridge.errors import ModelError

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class WeightInfo:
    """Name, shape and type of one tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size_bytes(self) -> int:
        """Length of its data."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class Weights(abc.ABC):
    """The tensors of a checkpoint, whatever they are made of."""

    @property
    @abc.abstractmethod
    def infos(self) -> Mapping[str, WeightInfo]:
        """Every tensor's shape and type, by name."""

    @property
    @abc.abstractmethod
    def place(self) -> Path:
        """The file that they are in, or the folder of several; for messages."""

    @property
    def quantized(self) -> frozenset[str]:
        """The GGUF block types that values were decoded from: they are rounded already."""
        return frozenset()

    @abc.abstractmethod
    def tensor(self, name: str) -> torch.Tensor:
        """Read, decode or merge one tensor.

        Raises:
            ModelError: there is no such tensor, or its file is damaged.
        """


class SafetensorsWeights(Weights):
    """The tensors of a checkpoint's safetensors files.

    Args:
        files: The files; names must not repeat.

    Raises:
        ModelError: a file is truncated, damaged, or holds a type that is no weight.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files: dict[str, Path] = {}
        self._infos: dict[str, WeightInfo] = {}
        for path in files:
            self._add(path)

    @classmethod
    def of_folder(cls, folder: Path) -> SafetensorsWeights:
        """Open ``model.safetensors``, or the shards that its index names.

        Raises:
            ModelError: there are none, a shard is missing, or a file is damaged.
        """
        single = folder / WEIGHTS_NAME
        if single.is_file():
            return cls([single])
        index = folder / INDEX_NAME
        if not index.is_file():
            raise ModelError(
                f"{folder} has no {WEIGHTS_NAME}",
                hint="save the model with model.save_pretrained(folder)",
            )
        return cls(_shards(index))

    @property
    def infos(self) -> Mapping[str, WeightInfo]:
        """Every tensor's shape and type, by name."""
        return self._infos

    @property
    def place(self) -> Path:
        """The file, or the folder of the shards."""
        files = set(self._files.values())
        return files.pop() if len(files) == 1 else next(iter(files)).parent

    def tensor(self, name: str) -> torch.Tensor:
        """Read one tensor.

        Raises:
            ModelError: there is no such tensor.
        """
        path = self._files.get(name)
        if path is None:
            raise ModelError(f"tensor {name!r} is missing from the checkpoint")
        with safe_open(str(path), framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor

    def _add(self, path: Path) -> None:
        try:
            with safe_open(str(path), framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  the object is no mapping
                    piece = file.get_slice(name)
                    dtype = _DTYPES.get(piece.get_dtype())
                    if dtype is None:
                        raise ModelError(
                            f"{path}: tensor {name!r} has type {piece.get_dtype()}, expected "
                            f"{', '.join(_DTYPES)}",
                            hint="start from a checkpoint that is not quantized",
                        )
                    if name in self._infos:
                        raise ModelError(f"tensor {name!r} is in {self._files[name]} and {path}")
                    self._infos[name] = WeightInfo(name, tuple(piece.get_shape()), dtype)
                    self._files[name] = path
        except (SafetensorError, OSError) as exc:
            raise ModelError(
                f"{path} is truncated or damaged: {exc}", hint="get the checkpoint again"
            ) from exc


def write_weights(
    path: Path, infos: Sequence[WeightInfo], produce: Callable[[str], torch.Tensor]
) -> None:
    """Write a safetensors file, asking for one tensor after another.

    Args:
        path: Where to.
        infos: What will be written, in order.
        produce: Gives the tensor of a name; called once each, in order.

    Raises:
        DiskFullError: there is no room.
        ValueError: a tensor is not what its info says.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for info in infos:
        end = offset + info.size_bytes
        header[info.name] = {
            "dtype": _DTYPE_NAMES[info.dtype],
            "shape": list(info.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data to 8 bytes
    try:
        with path.open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little"))
            stream.write(text)
            for info in infos:
                tensor = produce(info.name)
                if tuple(tensor.shape) != info.shape or tensor.dtype != info.dtype:
                    raise ValueError(
                        f"{info.name}: expected {info.dtype} of {info.shape}, "
                        f"got {tensor.dtype} of {tuple(tensor.shape)}"
                    )
                stream.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    except OSError as exc:
        raise_if_disk_full(exc, path)
        raise


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as exc:
        raise ModelError(f"{index} cannot be read: {exc!r}") from exc
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise ModelError(f"{index} names the file {name!r}, which lies outside the folder")
        if not (index.parent / name).is_file():
            raise ModelError(
                f"{index} names {name}, which is missing", hint="get the checkpoint again"
            )
    return [index.parent / name for name in names]
