"""Reads GGUF files that may be truncated, damaged or hostile.

Every count, length and offset is checked against the file before it is used, so a file of 50
bytes that claims 2**60 tokens costs nothing. What the ``gguf`` package's own reader lets through
(it hangs on such a file, and takes offsets that wrap around) is a :class:`GGUFError` here that
names the file, the byte and what was expected. Decoding of quantized tensors is the ``gguf``
package's.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from ollama_bridge.errors import GGUFError
from ollama_bridge.models.gguf.decode import decode
from ollama_bridge.models.paths import lfs_hint

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MAX_ALIGNMENT = 1 << 20
_MAX_DIMENSIONS = 4
# The largest vocabularies need 30 MB of metadata, the deepest models 3,000 tensors.
_MAX_METADATA_BYTES = 256 << 20
_MAX_METADATA_VALUES = 1 << 22
_MAX_ENTRIES = 1 << 16
_MAX_KEY_BYTES = (1 << 16) - 1  # the format's own limit

_DAMAGED = "the file is truncated or damaged: get it again"
_STRING, _ARRAY, _BOOL = 8, 9, 7
# Value type -> struct code; the format's numbers.
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f",
    7: "<B", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_SCALAR_STRUCTS = {code: struct.Struct(text) for code, text in _SCALARS.items()}
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies and how it is encoded.

    Attributes:
        name: Its name in the file.
        shape: Rows first, as in torch (the file has the reverse).
        type: The encoding's name, such as ``F16`` or ``Q4_1``.
        offset: First byte, counted from the start of the file.
        size_bytes: Length of the encoded data.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    size_bytes: int


@dataclass(frozen=True)
class GGUFContents:
    """The metadata of a GGUF file, and its tensors on demand.

    Attributes:
        path: The file.
        version: Of the format.
        metadata: Values by key; arrays are lists.
        tensors: By name, in the file's order.
    """

    path: Path
    version: int
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    _data: np.ndarray[Any, np.dtype[np.uint8]]

    def encoded(self, name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The bytes of a tensor as they are in the file (a view of the mapped file).

        Raises:
            GGUFError: there is no such tensor.
        """
        info = self.tensors.get(name)
        if info is None:
            raise GGUFError(f"{self.path}: tensor {name!r} is missing")
        return self._data[info.offset : info.offset + info.size_bytes]

    def tensor(self, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        """A tensor decoded to float32, rows first.

        Raises:
            GGUFError: no such tensor, an encoding that cannot be decoded, or values that are
                not finite.
        """
        data = self.encoded(name)
        info = self.tensors[name]
        try:
            values, finite = decode(data, info.type)
        except NotImplementedError as exc:
            raise GGUFError(
                f"{self.path}: tensor {name!r} has type {info.type}, "
                "which cannot be decoded to numbers",
                hint="use a GGUF of type F32, F16, BF16, Q8_0, or another block type",
            ) from exc
        if not finite:
            raise GGUFError(
                f"{self.path}: tensor {name!r} holds values that are not finite",
                hint="the file is damaged: get it again",
            )
        return values.reshape(info.shape)


def read_gguf(path: Path) -> GGUFContents:
    """Read metadata and the table of tensors of a GGUF file; tensors are read when asked for.

    Raises:
        GGUFError: not a GGUF, truncated, damaged, or beyond the limits of this reader.
    """
    try:
        size_bytes = path.stat().st_size
        if size_bytes < len(_MAGIC) + 4:
            raise GGUFError(
                f"{path}: {size_bytes} bytes are too few for a GGUF header",
                hint="the file is truncated: get it again",
            )
        data = np.memmap(path, dtype=np.uint8, mode="r")
    except (OSError, ValueError) as exc:
        raise GGUFError(f"{path}: cannot be read: {exc}") from exc
    cursor = _Cursor(path, data)
    version = _read_version(cursor)
    tensor_count = cursor.count("tensor count")
    key_count = cursor.count("metadata count")
    metadata = _read_metadata(cursor, key_count)
    alignment = _read_alignment(path, metadata)
    infos = list(_read_tensor_infos(cursor, tensor_count))
    start = _round_up(cursor.position, alignment)
    tensors = _place(path, infos, start=start, alignment=alignment, size_bytes=size_bytes)
    return GGUFContents(path, version, metadata, tensors, data)


class _Cursor:
    """Reads values one after another and refuses to leave the file."""

    def __init__(self, path: Path, data: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        self.path = path
        self.position = 0
        self._view = data.data
        self._end = min(len(data), _MAX_METADATA_BYTES)
        self._values_left = _MAX_METADATA_VALUES

    def error(self, message: str, *, hint: str = _DAMAGED) -> GGUFError:
        return GGUFError(f"{self.path}: at byte {self.position}: {message}", hint=hint)

    def skip(self, size_bytes: int, what: str) -> int:
        """Move on; returns where the bytes begin."""
        begin = self.position
        if size_bytes > self._end - begin:
            raise self.error(f"{what} needs {size_bytes} bytes, {self._end - begin} are left")
        self.position = begin + size_bytes
        return begin

    def u32(self, what: str) -> int:
        return int(_U32.unpack_from(self._view, self.skip(4, what))[0])

    def u64(self, what: str) -> int:
        return int(_U64.unpack_from(self._view, self.skip(8, what))[0])

    def take(self, size_bytes: int, what: str) -> bytes:
        begin = self.skip(size_bytes, what)
        return bytes(self._view[begin : begin + size_bytes])

    def count(self, what: str) -> int:
        number = self.u64(what)
        if number > _MAX_ENTRIES:
            raise self.error(f"{what} is {number}, at most {_MAX_ENTRIES} is accepted")
        return number

    def string(self, what: str, *, max_bytes: int = _MAX_METADATA_BYTES) -> str:
        size_bytes = self.u64(f"length of {what}")
        if size_bytes > max_bytes:
            raise self.error(f"{what} has {size_bytes} bytes, at most {max_bytes} is accepted")
        raw = self.take(size_bytes, what)
        try:
            return raw.decode()
        except UnicodeDecodeError as exc:
            raise self.error(f"{what} is not valid UTF-8: {exc.reason}") from exc

    def value(self, type_: int, what: str) -> Any:
        if type_ == _STRING:
            return self.string(what)
        if type_ == _ARRAY:
            return self.array(what)
        code = _SCALAR_STRUCTS.get(type_)
        if code is None:
            raise self.error(f"{what} has unknown value type {type_}")
        (number,) = code.unpack_from(self._view, self.skip(code.size, what))
        if type_ == _BOOL:
            if number > 1:
                raise self.error(f"{what} is a bool with value {number}, expected 0 or 1")
            return bool(number)
        return number

    def array(self, what: str) -> list[Any]:
        type_ = self.u32(f"element type of {what}")
        count = self.u64(f"length of {what}")
        if type_ == _ARRAY:
            raise self.error(f"{what} is an array of arrays, which is not accepted")
        code = _SCALAR_STRUCTS.get(type_)
        if code is None and type_ != _STRING:
            raise self.error(f"{what} has unknown element type {type_}")
        if count > self._values_left:
            raise self.error(
                f"{what} claims {count} values; {_MAX_METADATA_VALUES} are accepted in all"
            )
        self._values_left -= count
        if code is None:
            return self._strings(count, what)
        begin = self.skip(count * code.size, what)
        numbers = np.frombuffer(self._view, dtype=_SCALARS[type_], count=count, offset=begin)
        if type_ == _BOOL:
            if numbers.size and int(numbers.max()) > 1:
                raise self.error(f"{what} has bools that are neither 0 nor 1")
            return [bool(number) for number in numbers.tolist()]
        values: list[Any] = numbers.tolist()
        return values

    def _strings(self, count: int, what: str) -> list[str]:
        # A loop over hundreds of thousands of tokens: no call a string but those of C.
        view, end, position = self._view, self._end, self.position
        if count * 8 > end - position:
            raise self.error(
                f"{what} claims {count} strings, {end - position} bytes are left in the file"
            )
        unpack = _U64.unpack_from
        strings = []
        for index in range(count):
            begin = position + 8
            if begin > end:
                raise self.error(f"{what}[{index}] is cut off by the end of the file")
            position = begin + unpack(view, begin - 8)[0]
            if position > end:
                raise self.error(f"{what}[{index}] reaches beyond the end of the file")
            try:
                strings.append(str(view[begin:position], "utf-8"))
            except UnicodeDecodeError as exc:
                raise self.error(f"{what}[{index}] is not valid UTF-8: {exc.reason}") from exc
        self.position = position
        return strings


def _read_version(cursor: _Cursor) -> int:
    magic = cursor.take(len(_MAGIC), "magic")
    if magic != _MAGIC:
        raise GGUFError(
            f"{cursor.path}: not a GGUF file: it begins with {magic!r}, expected {_MAGIC!r}",
            hint=lfs_hint(cursor.path)
            or "give a .gguf file; a Hugging Face checkpoint is given as its folder",
        )
    version = cursor.u32("version")
    if version not in _VERSIONS:
        if int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS:
            raise cursor.error(
                "big-endian files are not read",
                hint=f"turn it where it lies: gguf-convert-endian {quote(str(cursor.path))} little",
            )
        raise cursor.error(
            f"version {version}: expected 2 or 3", hint="get the model in today's format"
        )
    return version


def _read_metadata(cursor: _Cursor, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for index in range(count):
        key = cursor.string(f"name of metadata key {index}", max_bytes=_MAX_KEY_BYTES)
        if not key or key in metadata:
            raise cursor.error(f"metadata key {index}, {key!r}, is empty or comes twice")
        type_ = cursor.u32(f"type of {key!r}")
        metadata[key] = cursor.value(type_, repr(key))
    return metadata


def _read_alignment(path: Path, metadata: Mapping[str, Any]) -> int:
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if (
        not isinstance(alignment, int)
        or isinstance(alignment, bool)
        or not 0 < alignment <= _MAX_ALIGNMENT
        or alignment & (alignment - 1)
    ):
        raise GGUFError(
            f"{path}: general.alignment is {alignment!r}, "
            f"expected a power of two up to {_MAX_ALIGNMENT}"
        )
    return alignment


def _read_tensor_infos(cursor: _Cursor, count: int) -> Iterator[TensorInfo]:
    """Yield tensors with the offset still counted from the start of the data."""
    for index in range(count):
        name = cursor.string(f"name of tensor {index}", max_bytes=_MAX_KEY_BYTES)
        dimensions = cursor.u32(f"number of dimensions of {name!r}")
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise cursor.error(f"tensor {name!r} has {dimensions} dimensions, expected 1 to 4")
        sizes = [cursor.u64(f"dimensions of {name!r}") for _ in range(dimensions)]
        if 0 in sizes:
            raise cursor.error(f"tensor {name!r} has shape {sizes}: a dimension is 0")
        number = cursor.u32(f"type of {name!r}")
        try:
            type_ = GGMLQuantizationType(number)
            block, block_bytes = GGML_QUANT_SIZES[type_]
        except (ValueError, KeyError) as exc:
            raise cursor.error(
                f"tensor {name!r} has unknown type {number}",
                hint="get the model in another type, such as Q8_0: llama.cpp has dropped this one "
                "(Q4_0_4_4 and its like), or it is newer than the gguf package here; or the file "
                "is damaged",
            ) from exc
        if sizes[0] % block:
            raise cursor.error(
                f"tensor {name!r} has rows of {sizes[0]}, not a multiple of "
                f"{type_.name}'s block of {block}"
            )
        size_bytes = math.prod(sizes) // block * block_bytes
        offset = cursor.u64(f"offset of {name!r}")
        yield TensorInfo(name, tuple(reversed(sizes)), type_.name, offset, size_bytes)


def _place(
    path: Path, infos: list[TensorInfo], *, start: int, alignment: int, size_bytes: int
) -> dict[str, TensorInfo]:
    """Check that the tensors lie inside the file, aligned, apart, and named once."""
    tensors: dict[str, TensorInfo] = {}
    for info in infos:
        if info.name in tensors:
            raise GGUFError(f"{path}: tensor {info.name!r} comes twice")
        if info.offset % alignment:
            raise GGUFError(
                f"{path}: tensor {info.name!r} has offset {info.offset}, "
                f"not a multiple of the alignment {alignment}"
            )
        begin = start + info.offset
        if begin + info.size_bytes > size_bytes:
            raise GGUFError(
                f"{path}: tensor {info.name!r} ends at byte {begin + info.size_bytes}, "
                f"but the file has {size_bytes} bytes",
                hint="the file is truncated: get it again",
            )
        tensors[info.name] = TensorInfo(info.name, info.shape, info.type, begin, info.size_bytes)
    ordered = sorted(tensors.values(), key=lambda info: info.offset)
    for first, second in pairwise(ordered):
        if first.offset + first.size_bytes > second.offset:
            raise GGUFError(f"{path}: tensors {first.name!r} and {second.name!r} overlap")
    return tensors


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
