"""The beginning of a GGUF: its metadata, and the table of its tensors.

The ``gguf`` package packs one element of a list after another, which for a large vocabulary takes
as long as encoding a small model; here a list is packed at once. Tests hold the bytes against it.

Format: ``docs/gguf.md`` of ggml.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from gguf.constants import (
    GGUF_DEFAULT_ALIGNMENT,
    GGUF_MAGIC,
    GGUF_VERSION,
    GGMLQuantizationType,
    GGUFValueType,
)

from ollama_bridge.errors import ConversionError
from ollama_bridge.models.architectures.entries import Entry, text

_NUMBERS = {
    GGUFValueType.UINT8: "<u1",
    GGUFValueType.INT8: "<i1",
    GGUFValueType.UINT16: "<u2",
    GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4",
    GGUFValueType.INT32: "<i4",
    GGUFValueType.FLOAT32: "<f4",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "<u8",
    GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT64: "<f8",
}
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class TableRow:
    """One tensor in the table: its shape, rows first, and the bytes of its values."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    size_bytes: int


def pack_head(architecture: str, entries: Sequence[Entry], table: Sequence[TableRow]) -> bytes:
    """Everything in front of the values, but for the padding.

    The values of each tensor begin at a multiple of the alignment, in the order of the table.

    Raises:
        ConversionError: a number of the metadata is beyond its type.
    """
    all_entries = [text("general.architecture", architecture), *entries]
    counts = struct.pack("<IIQQ", GGUF_MAGIC, GGUF_VERSION, len(table), len(all_entries))
    return b"".join([counts, *map(_packed_entry, all_entries), *_packed_table(table)])


def _packed_entry(entry: Entry) -> bytes:
    head = _strings([entry.key]) + struct.pack("<I", entry.type)
    if entry.type != GGUFValueType.ARRAY:
        return head + _values(entry.key, [entry.value], entry.type)
    assert entry.element_type is not None
    head += struct.pack("<IQ", entry.element_type, len(entry.value))
    return head + _values(entry.key, entry.value, entry.element_type)


def _values(key: str, values: Sequence[Any], type_: GGUFValueType) -> bytes:
    if type_ == GGUFValueType.STRING:
        return _strings(values)
    try:
        with np.errstate(over="raise"):
            return np.array(values, dtype=_NUMBERS[type_]).tobytes()
    except (FloatingPointError, OverflowError) as exc:
        raise ConversionError(
            f"{key}: {max(values, key=abs)!r} is too large for a {type_.name} of a GGUF",
            hint="correct the model's config.json, or its generation_config.json",
        ) from exc


def _strings(values: Iterable[str]) -> bytes:
    texts = [value.encode() for value in values]
    lengths = map(_LENGTH.pack, map(len, texts))
    return b"".join(chain.from_iterable(zip(lengths, texts, strict=True)))


def _packed_table(table: Sequence[TableRow]) -> Iterable[bytes]:
    offset = 0
    for row in table:
        yield _strings([row.name])
        shape = reversed(row.shape)
        yield struct.pack(f"<I{len(row.shape)}QIQ", len(row.shape), *shape, row.type, offset)
        offset += row.size_bytes + -row.size_bytes % GGUF_DEFAULT_ALIGNMENT
