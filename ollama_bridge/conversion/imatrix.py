"""Importance matrices: files of llama.cpp that say how much the columns of a matrix are used.

For each matrix, the mean square of what it is multiplied with, column by column: an error where
inputs are large costs more. Both of llama.cpp's formats are read, its GGUF format is written, so
what is measured here works there and the other way round.

Source: ``tools/imatrix`` and ``tools/quantize`` of llama.cpp.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf.constants import GGUFValueType
from gguf.gguf_writer import GGUFWriter

from ollama_bridge.errors import ConversionError, GGUFError
from ollama_bridge.models.gguf.reader import read_gguf
from ollama_bridge.quantization.encoders import Float32Array

_SUMS, _COUNTS = ".in_sum2", ".counts"
_MAX_ENTRIES, _MAX_NAME_BYTES, _MAX_COLUMNS = 1 << 16, 1 << 10, 1 << 22


@dataclass(frozen=True)
class Measured:
    """What was seen of one matrix: (columns,) sums of the squared inputs, of so many tokens."""

    sums: Float32Array
    tokens: int


def read_importance(path: Path) -> dict[str, Float32Array]:
    """Read either format: (columns,) mean squared inputs by the tensor's name in a GGUF.

    Raises:
        ConversionError: no such file, no importance matrix, damaged, or not finite.
    """
    try:
        with path.open("rb") as stream:
            magic = stream.read(4)
        found = _read_gguf(path) if magic == b"GGUF" else _read_legacy(path, path.read_bytes())
    except (OSError, GGUFError, struct.error, UnicodeDecodeError) as exc:
        raise _unusable(path, str(exc)) from exc
    if not found:
        raise _unusable(path, "it has no entries")
    for name, values in found.items():
        if not np.isfinite(values).all() or (values < 0).any():
            raise _unusable(path, f"{name} has values that are not mean squares")
    return found


def write_importance(
    path: Path, measured: Mapping[str, Measured], *, dataset: str, chunk_tokens: int
) -> None:
    """Write llama.cpp's GGUF format.

    ``dataset`` says for people what the texts are; the longest has ``chunk_tokens``.

    Raises:
        OSError: it cannot be written.
    """
    tokens = max(entry.tokens for entry in measured.values())
    writer = GGUFWriter(None, "")
    writer.kv_data[0].clear()  # the format has no architecture
    writer.add_string("general.type", "imatrix")
    writer.add_key_value("imatrix.datasets", [dataset], GGUFValueType.ARRAY, GGUFValueType.STRING)
    writer.add_uint32("imatrix.chunk_count", max(1, tokens // chunk_tokens))
    writer.add_uint32("imatrix.chunk_size", chunk_tokens)
    for name, entry in sorted(measured.items()):
        writer.add_tensor(name + _SUMS, entry.sums[None])
        writer.add_tensor(name + _COUNTS, np.array([[entry.tokens]], dtype=np.float32))
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _read_gguf(path: Path) -> dict[str, Float32Array]:
    contents = read_gguf(path)
    found = {}
    for name in contents.tensors:
        if not name.endswith(_SUMS):
            continue
        base = name.removesuffix(_SUMS)
        counts = contents.tensor(base + _COUNTS).reshape(-1)
        sums = contents.tensor(name)
        if len(counts) != 1 or not counts[0]:
            raise _unusable(path, f"{base} was measured {counts.tolist()} times, expected once")
        found[base] = sums.reshape(-1) / counts[0]
    return found


def _read_legacy(path: Path, data: bytes) -> dict[str, Float32Array]:
    found: dict[str, Float32Array] = {}
    (entries,) = struct.unpack_from("<i", data)
    if not 0 < entries <= _MAX_ENTRIES:
        raise _unusable(path, "it is neither a GGUF nor llama.cpp's older format")
    at = 4
    for _ in range(entries):
        (length,) = struct.unpack_from("<i", data, at)
        if not 0 < length <= _MAX_NAME_BYTES:
            raise _unusable(path, f"at byte {at}: a name of {length} bytes")
        name = data[at + 4 : at + 4 + length].decode()
        at += 4 + length
        calls, columns = struct.unpack_from("<ii", data, at)
        at += 8
        if not 0 < columns <= _MAX_COLUMNS or len(data) < at + 4 * columns or calls < 0:
            raise _unusable(path, f"at byte {at}: {name} is cut off")
        values = np.frombuffer(data, "<f4", columns, at)
        found[name] = (values / max(calls, 1)).astype(np.float32)
        at += 4 * columns
    return found


def _unusable(path: Path, why: str) -> ConversionError:
    return ConversionError(
        f"{path} is not a usable importance matrix: {why}",
        hint="ollama-bridge importance MODEL --corpus FOLDER --out FOLDER measures one",
    )
