"""The numbers of a tensor as the bytes of a GGUF type.

What torch computes in one pass over memory (F32, F16, BF16, Q8_0) is done here, in pieces that
fit the processor's cache; block types that take a search are handed on as rows, for
``quantization`` to encode. Which type a tensor gets is not decided here.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from gguf.constants import GGMLQuantizationType
from torch import Tensor

from ollama_bridge.errors import ConversionError
from ollama_bridge.quantization.encoders import BLOCK_TYPES, Bytes, Float32Array
from ollama_bridge.quantization.workers import Rows

PIECE_VALUES = 1 << 18  # a megabyte in float32
_F16_MAX = float(np.finfo(np.float16).max)
# What a block reaches whose scale (and minimum) is a float16.
_LIMITS = {
    GGMLQuantizationType.F16: _F16_MAX,
    GGMLQuantizationType.Q8_0: 127 * _F16_MAX,
    GGMLQuantizationType.Q5_0: 16 * _F16_MAX,
    GGMLQuantizationType.Q4_0: 8 * _F16_MAX,
    **dict.fromkeys((GGMLQuantizationType.Q5_1, GGMLQuantizationType.Q4_1), _F16_MAX),
    GGMLQuantizationType.Q6_K: 32 * 128 * _F16_MAX,
    GGMLQuantizationType.Q5_K: 31 * _F16_MAX,
    GGMLQuantizationType.Q4_K: 15 * _F16_MAX,
    GGMLQuantizationType.Q3_K: 4 * 32 * _F16_MAX,
    GGMLQuantizationType.Q2_K: 3 * _F16_MAX,
}
_Q8_BLOCK = 32
# Blocks without a larger number are zeros: the inverse of their scale would overflow.
_NEGLIGIBLE = 1e-30
_DTYPES = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
}


def pieces(
    name: str,
    values: Tensor,
    type_: GGMLQuantizationType,
    importance: Float32Array | None = None,
) -> Iterator[Rows | Bytes]:
    """Cut a tensor into pieces of whole rows, and encode those that need no search.

    Args:
        name: For messages.
        values: Rows first, of any float type.
        type_: What its rows divide into.
        importance: (columns,) of the tensor's errors, for block types; None: none is known.

    Raises:
        ConversionError: a value is not finite, or too large for the type.
    """
    _check(name, values, type_)
    rows = values.reshape(-1, values.shape[-1])
    step = max(1, PIECE_VALUES // rows.shape[1])
    for start in range(0, rows.shape[0], step):
        part = rows[start : start + step]
        if type_ in BLOCK_TYPES:
            shape = (part.shape[0], part.shape[1])
            yield Rows(shape, type_, importance, partial(_fill, part))
        elif type_ in _DTYPES:
            plain = part.to(_DTYPES[type_]).contiguous()
            yield plain.view(torch.uint8).numpy()
        else:
            yield _q8_0(part.float())


def _fill(part: Tensor, out: Float32Array) -> None:
    torch.from_numpy(out).copy_(part)


def _check(name: str, values: Tensor, type_: GGMLQuantizationType) -> None:
    low, high = torch.aminmax(values)
    largest = max(-float(low), float(high))
    if not (np.isfinite(float(low)) and np.isfinite(float(high))):
        raise ConversionError(
            f"tensor {name!r} holds values that are not finite",
            hint="training diverged: lower the learning rate and train again",
        )
    limit = _LIMITS.get(type_)
    if limit is not None and largest > limit:
        raise ConversionError(
            f"tensor {name!r} holds {largest:g}, {type_.name} reaches {limit:g}",
            hint="convert with --type bf16 or --type f32",
        )


def _q8_0(rows: Tensor) -> Bytes:
    """(rows, bytes) of blocks: a float16 scale, and 32 integers rounded half away from zero.

    Source: ``quantize_row_q8_0_ref`` in ``ggml-quants.c`` of llama.cpp.
    """
    blocks = rows.reshape(-1, _Q8_BLOCK)
    largest = blocks.abs().amax(dim=1, keepdim=True)
    scale = largest / 127
    inverse = torch.where(largest < _NEGLIGIBLE, 0, 1 / scale)
    scaled = blocks * inverse
    whole = scaled.trunc()
    # torch rounds halves to even; the difference to the integer part is exact.
    whole += (scaled - whole).mul_(2).trunc_()
    out = torch.empty((blocks.shape[0], 2 + _Q8_BLOCK), dtype=torch.uint8)
    out[:, :2] = scale.to(torch.float16).view(torch.uint8)
    out[:, 2:] = whole.to(torch.int8).view(torch.uint8)
    return out.reshape(rows.shape[0], -1).numpy()
