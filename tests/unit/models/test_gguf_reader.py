"""The GGUF reader on good, truncated, damaged and hostile files."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ollama_bridge.errors import GGUFError
from ollama_bridge.models.gguf.reader import read_gguf

U32, U64 = "<I", "<Q"


def string(value: bytes) -> bytes:
    """A text as the format writes it."""
    return struct.pack(U64, len(value)) + value


def header(*, keys: int = 0, tensors: int = 0, version: int = 3, magic: bytes = b"GGUF") -> bytes:
    """The first 24 bytes."""
    return magic + struct.pack(U32, version) + struct.pack("<QQ", tensors, keys)


def array(key: bytes, element: int, count: int, data: bytes = b"") -> bytes:
    """A metadata key that holds an array."""
    head = string(key) + struct.pack(U32, 9) + struct.pack(U32, element)
    return head + struct.pack(U64, count) + data


def tensor(
    name: bytes, shape: Iterable[int], *, type_: int = 0, offset: int = 0, dims: int | None = None
) -> bytes:
    """One entry of the table of tensors."""
    sizes = list(shape)
    return (
        string(name)
        + struct.pack(U32, len(sizes) if dims is None else dims)
        + b"".join(struct.pack(U64, size) for size in sizes)
        + struct.pack(U32, type_)
        + struct.pack(U64, offset)
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a spoiled file goes."""
    return tmp_path / "model.gguf"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file with every kind of value, written by the gguf package."""
    path = tmp_path_factory.mktemp("gguf") / "good.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_uint8("a.u8", 200)
    writer.add_int64("a.i64", -(2**40))
    writer.add_float32("a.f32", 0.5)
    writer.add_float64("a.f64", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_string("a.string", "größer 😀")
    writer.add_array("a.strings", ["", "ä", "b" * 300])
    writer.add_array("a.numbers", [1, -2, 3])
    writer.add_array("a.bools", [True, False])
    rng = np.random.default_rng(0)
    writer.add_tensor("plain", rng.normal(size=(3, 32)).astype(np.float32))
    writer.add_tensor("half", rng.normal(size=(2, 5)).astype(np.float16))
    writer.add_tensor(
        "blocks",
        rng.integers(0, 100, size=(4, 34), dtype=np.uint8),
        raw_dtype=GGMLQuantizationType.Q8_0,
    )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_values_are_those_that_were_written(good: Path) -> None:
    """Metadata of every type read back as written."""
    metadata = read_gguf(good).metadata
    assert metadata["general.architecture"] == "llama"
    assert metadata["a.u8"] == 200
    assert metadata["a.i64"] == -(2**40)
    assert metadata["a.f32"] == 0.5
    assert metadata["a.f64"] == 0.1
    assert metadata["a.bool"] is True
    assert metadata["a.string"] == "größer 😀"
    assert metadata["a.strings"] == ["", "ä", "b" * 300]
    assert metadata["a.numbers"] == [1, -2, 3]
    assert metadata["a.bools"] == [True, False]


def test_tensors_are_those_of_the_gguf_package(good: Path) -> None:
    """Place, type and shape agree with gguf-py's reader, and so do plain values."""
    contents, found = read_gguf(good), GGUFReader(good).tensors
    assert contents.tensors.keys() == {theirs.name for theirs in found} != set()
    for theirs in found:
        ours = contents.tensors[theirs.name]
        assert ours.shape == tuple(int(size) for size in reversed(theirs.shape))
        assert ours.type == theirs.tensor_type.name
        assert (ours.offset, ours.size_bytes) == (int(theirs.data_offset), int(theirs.n_bytes))
        assert contents.tensor(theirs.name).dtype == np.float32
        if ours.type == "F32":
            assert np.array_equal(contents.tensor(theirs.name), theirs.data)


def test_every_truncation_is_an_error(good: Path, file: Path) -> None:
    """A file cut in its header, table or data is a GGUFError that names the file."""
    whole = good.read_bytes()
    # The very end may be padding, which nobody needs.
    infos = read_gguf(good).tensors.values()
    start = min(info.offset for info in infos)
    end = max(info.offset + info.size_bytes for info in infos)
    for size in (*range(0, start, 3), *range(start, end, 17), end - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(GGUFError, match=r"model\.gguf"):
            read_gguf(file)


@given(data=st.data())
@settings(
    max_examples=150, deadline=60_000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_changed_bytes_never_hang_or_crash(good: Path, file: Path, data: st.DataObject) -> None:
    """With bytes changed at random the file reads, or is a GGUFError; nothing else."""
    raw = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(bytes(raw))
    try:
        contents = read_gguf(file)
        for name in contents.tensors:
            contents.tensor(name)
    except GGUFError:
        return
    assert contents.path == file


@given(st.binary(max_size=400))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=60_000)
def test_noise_behind_a_good_header_is_an_error(file: Path, noise: bytes) -> None:
    """Counts that promise more than noise can hold are a GGUFError."""
    file.write_bytes(header(keys=3, tensors=2) + noise)
    with pytest.raises(GGUFError):
        read_gguf(file)


ONE, TWO = header(tensors=1), header(tensors=2)
ALIGNMENT = header(keys=1) + string(b"general.alignment")
# The bytes, and what is told of them.
BOMBS = {
    "bools 2**40": (header(keys=1) + array(b"k", 7, 2**40), "claims 1099511627776 values"),
    "doubles 2**64-1": (
        header(keys=1) + array(b"k", 12, 2**64 - 1),
        "claims 18446744073709551615 values",
    ),
    "bytes 2**31": (header(keys=1) + array(b"k", 0, 2**31), "claims 2147483648 values"),
    "strings 2**31": (header(keys=1) + array(b"k", 8, 2**31), "claims 2147483648 values"),
    "strings 2**63": (header(keys=1) + array(b"k", 8, 2**63), "claims 9223372036854775808 values"),
    "strings within the limit": (
        header(keys=1) + array(b"k", 8, 2**22),
        "claims 4194304 strings, 0 bytes are left",
    ),
    "bytes within the limit": (
        header(keys=1) + array(b"k", 0, 2**22),
        "needs 4194304 bytes, 0 are left",
    ),
    "string 2**62": (
        header(keys=1) + string(b"k") + struct.pack(U32, 8) + struct.pack(U64, 2**62),
        "'k' has 4611686018427387904 bytes",
    ),
    "key 2**62": (
        header(keys=1) + struct.pack(U64, 2**62),
        "metadata key 0 has 4611686018427387904 bytes",
    ),
    "keys 2**32": (header(keys=2**32), "metadata count is 4294967296"),
    "keys 2**16": (header(keys=2**16), "name of metadata key 0 needs 8 bytes"),
    "tensors 2**32": (header(tensors=2**32), "tensor count is 4294967296"),
    "tensors 2**64-1": (header(tensors=2**64 - 1), "tensor count is 18446744073709551615"),
    "nested arrays": (header(keys=1) + array(b"k", 9, 1), "array of arrays"),
    "unknown value type": (
        header(keys=1) + string(b"k") + struct.pack(U32, 13),
        "unknown value type 13",
    ),
    "unknown element type": (header(keys=1) + array(b"k", 99, 1), "unknown element type 99"),
    "bool of 2": (
        header(keys=1) + string(b"k") + struct.pack(U32, 7) + b"\x02",
        "a bool with value 2",
    ),
    "bools of 2": (
        header(keys=1) + array(b"k", 7, 2, b"\x01\x02"),
        "bools that are neither 0 nor 1",
    ),
    "key that is not UTF-8": (
        header(keys=1) + string(b"\xff") + struct.pack("<IB", 0, 1),
        "key 0 is not valid UTF-8",
    ),
    "text that is not UTF-8": (
        header(keys=1) + array(b"k", 8, 1, string(b"\xff")),
        "'k'[0] is not valid UTF-8",
    ),
    "empty key": (header(keys=1) + string(b"") + struct.pack("<IB", 0, 1), "key 0, '', is empty"),
    "key twice": (
        header(keys=2) + (string(b"k") + struct.pack("<IB", 0, 1)) * 2,
        "key 1, 'k', is empty or comes twice",
    ),
    "version 1": (header(version=1), "version 1: expected 2 or 3"),
    "version 99": (header(version=99), "version 99: expected 2 or 3"),
    "big-endian": (b"GGUF" + struct.pack(">I", 3) + bytes(16), "big-endian files are not read"),
    "other magic": (header(magic=b"GGML"), "begins with b'GGML'"),
    "empty": (b"", "0 bytes are too few"),
    "alignment 3": (ALIGNMENT + struct.pack("<II", 4, 3), "alignment is 3,"),
    "alignment 0": (ALIGNMENT + struct.pack("<II", 4, 0), "alignment is 0,"),
    "alignment 2**31": (ALIGNMENT + struct.pack("<II", 4, 2**31), "alignment is 2147483648,"),
    "alignment text": (ALIGNMENT + struct.pack(U32, 8) + string(b"32"), "alignment is '32',"),
    "tensor of type 999": (ONE + tensor(b"t", [4], type_=999) + bytes(64), "unknown type 999"),
    "tensor of a removed type": (ONE + tensor(b"t", [32], type_=4) + bytes(64), "unknown type 4"),
    "tensor with no dimensions": (ONE + tensor(b"t", []) + bytes(64), "has 0 dimensions"),
    "tensor with 5 dimensions": (ONE + tensor(b"t", [1] * 5) + bytes(64), "has 5 dimensions"),
    "tensor with 2**31 dimensions": (
        ONE + tensor(b"t", [1], dims=2**31) + bytes(64),
        "has 2147483648 dimensions",
    ),
    "tensor with a dimension of 0": (ONE + tensor(b"t", [4, 0]) + bytes(64), "a dimension is 0"),
    "tensor whose size wraps around": (
        ONE + tensor(b"t", [2**32, 2**32, 4]) + bytes(64),
        "ends at byte 295147905179352825952",
    ),
    "tensor whose offset wraps around": (
        ONE + tensor(b"t", [4], offset=2**64 - 32) + bytes(64),
        "ends at byte 18446744073709551664",
    ),
    "tensor that is not aligned": (
        ONE + tensor(b"t", [4], offset=4) + bytes(128),
        "not a multiple of the alignment 32",
    ),
    "tensor beyond the end": (
        ONE + tensor(b"t", [4], offset=1024) + bytes(64),
        "ends at byte 1104",
    ),
    "tensor of broken rows": (
        ONE + tensor(b"t", [33], type_=8) + bytes(128),
        "not a multiple of Q8_0's block",
    ),
    "tensor twice": (
        TWO + tensor(b"t", [4]) + tensor(b"t", [4], offset=32) + bytes(128),
        "comes twice",
    ),
    "tensors that overlap": (
        TWO + tensor(b"a", [16]) + tensor(b"b", [4], offset=32) + bytes(256),
        "overlap",
    ),
}


@pytest.mark.parametrize(("raw", "told"), BOMBS.values(), ids=BOMBS.keys())
def test_hostile_files_are_refused(raw: bytes, told: str, file: Path) -> None:
    """Every lie about counts, lengths, types and places is a GGUFError naming it and the file."""
    file.write_bytes(raw)
    with pytest.raises(GGUFError, match=r"model\.gguf") as caught:
        read_gguf(file)
    assert told in caught.value.message


@pytest.mark.parametrize(
    ("raw", "way_out"),
    [
        (b"GGUF" + struct.pack(">I", 3) + bytes(16), "gguf-convert-endian"),
        (header(version=1), "today's format"),
        (ONE + tensor(b"t", [32], type_=31) + bytes(64), "another type"),
    ],
    ids=["big-endian", "version 1", "Q4_0_4_4"],
)
def test_a_sound_file_of_another_kind_is_not_called_damaged(
    raw: bytes, way_out: str, file: Path
) -> None:
    """Files that were published so: to get them again is no help."""
    file.write_bytes(raw)
    with pytest.raises(GGUFError) as caught:
        read_gguf(file)
    assert way_out in str(caught.value.hint)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    """No file is a GGUFError, not an OSError."""
    with pytest.raises(GGUFError):
        read_gguf(tmp_path / "nothing.gguf")


def test_values_that_are_not_finite_are_refused(file: Path) -> None:
    """A tensor with NaN, as damage makes it, is refused when it is decoded."""
    raw = header(tensors=1) + tensor(b"t", [4])
    raw += bytes(-len(raw) % 32) + struct.pack("<4f", 0, 1, float("nan"), 2)
    file.write_bytes(raw)
    with pytest.raises(GGUFError, match="not finite"):
        read_gguf(file).tensor("t")


def test_integer_tensors_are_not_taken_for_weights(file: Path) -> None:
    """A type without a decoder is a GGUFError naming it."""
    raw = header(tensors=1) + tensor(b"t", [4], type_=26)
    raw += bytes(-len(raw) % 32) + struct.pack("<4i", 0, 1, 2, 3)
    file.write_bytes(raw)
    with pytest.raises(GGUFError, match="I32"):
        read_gguf(file).tensor("t")


def test_a_missing_tensor_is_named(good: Path) -> None:
    """Asking for a tensor that is not there names it."""
    with pytest.raises(GGUFError, match="nothing"):
        read_gguf(good).tensor("nothing")
