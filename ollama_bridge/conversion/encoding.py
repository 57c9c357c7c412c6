"""The numbers of a tensor as the bytes of a GGUF type.

Matrices get the type that was asked for; vectors and norms stay float32, for llama.cpp's kernels
want them so and they weigh nothing. A row that is no multiple of a type's block falls back to F16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType
from gguf.quants import quantize

from ollama_bridge.errors import ConversionError

_F32, _F16 = GGMLQuantizationType.F32, GGMLQuantizationType.F16
_NEGLIGIBLE = np.float32(1e-30)
_F16_MAX = float(np.finfo(np.float16).max)

Encoded = np.ndarray[Any, np.dtype[Any]]
Float32Array = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class FileType:
    """A type that a whole model can be written in.

    Attributes:
        name: As recipes and the command line say it.
        matrices: The encoding of matrices.
        number: ``general.file_type``.
    """

    name: str
    matrices: GGMLQuantizationType
    number: int


FILE_TYPES = {
    entry.name: entry
    for entry in (
        FileType("f32", _F32, LlamaFileType.ALL_F32),
        FileType("f16", _F16, LlamaFileType.MOSTLY_F16),
        FileType("bf16", GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
        FileType("q8_0", GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    )
}


def file_type(name: str) -> FileType:
    """Look a type up.

    Raises:
        ConversionError: there is none of that name.
    """
    entry = FILE_TYPES.get(name.lower())
    if entry is None:
        raise ConversionError(
            f"type {name!r} cannot be written", hint=f"use one of {', '.join(FILE_TYPES)}"
        )
    return entry


def encoding_of(name: str, shape: tuple[int, ...], wanted: FileType) -> GGMLQuantizationType:
    """The encoding of one tensor.

    Args:
        name: In the GGUF.
        shape: Rows first.
        wanted: The file's type.
    """
    if len(shape) < 2 or name.endswith("_norm.weight"):
        return _F32
    block, _ = GGML_QUANT_SIZES[wanted.matrices]
    return wanted.matrices if shape[-1] % block == 0 else _F16


def encoded_size(shape: tuple[int, ...], type_: GGMLQuantizationType) -> int:
    """Bytes that a tensor takes."""
    block, block_bytes = GGML_QUANT_SIZES[type_]
    return int(np.prod(shape, dtype=np.int64)) // block * block_bytes


def encode(name: str, values: Float32Array, type_: GGMLQuantizationType) -> Encoded:
    """Encode one tensor.

    Args:
        name: For messages.
        values: Rows first.
        type_: From :func:`encoding_of`.

    Raises:
        ConversionError: a value is not finite, or too large for the type.
    """
    largest = float(np.abs(values).max(initial=0.0))
    if not np.isfinite(largest):
        raise ConversionError(
            f"tensor {name!r} holds values that are not finite",
            hint="training diverged: lower the learning rate and train again",
        )
    # Q8_0 keeps its scale, largest / 127, in float16.
    limit = {_F16: _F16_MAX, GGMLQuantizationType.Q8_0: 127 * _F16_MAX}.get(type_)
    if limit is not None and largest > limit:
        raise ConversionError(
            f"tensor {name!r} holds {largest:g}, {type_.name} reaches {limit:g}",
            hint="convert with --type bf16 or --type f32",
        )
    if type_ == _F32:
        return values
    if type_ == _F16:
        return values.astype(np.float16)
    if type_ == GGMLQuantizationType.Q8_0:
        # The encoder divides by a block's largest value; with nothing but these it overflows,
        # and decodes to zeros anyway.
        values = np.where(np.abs(values) < _NEGLIGIBLE, np.float32(0), values)
    encoded: Encoded = quantize(values, type_)
    return encoded
