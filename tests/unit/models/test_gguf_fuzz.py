"""The GGUF reader on files spoiled at random: an error of ours, or a reading, at bounded cost."""

from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ollama_bridge.errors import GGUFError
from ollama_bridge.models.gguf.reader import read_gguf
from ollama_bridge.models.settings.gguf_tokenizer import GGUFTokenizer

# Numbers that counts, lengths, offsets and types are spoiled with.
WORDS = st.sampled_from(
    [0, 1, 2, 7, 8, 9, 12, 13, 99, 999, 2**16, 2**22, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40]
    + [2**61, 2**62, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1]
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small vocabulary and three tensors, each of another encoding."""
    path = tmp_path_factory.mktemp("gguf") / "whole.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_token_list([f"<{number}>" for number in range(40)])
    writer.add_token_scores([0.5] * 40)
    writer.add_token_types([1] * 40)
    writer.add_array("a.flags", [True, False])
    rng = np.random.default_rng(0)
    writer.add_tensor("token_embd.weight", rng.normal(size=(40, 32)).astype(np.float32))
    writer.add_tensor("output_norm.weight", rng.normal(size=(32,)).astype(np.float16))
    blocks = rng.integers(0, 100, size=(4, 34), dtype=np.uint8)
    writer.add_tensor("blk.0.attn_q.weight", blocks, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@st.composite
def spoiled(draw: st.DrawFn, whole: bytes) -> bytes:
    """The file with words overwritten, and parts cut out, doubled or moved."""
    raw = bytearray(whole)
    # What is read first decides most: half of the places are drawn from the head.
    places = st.one_of(st.integers(0, len(whole) - 9), st.integers(0, 400))
    for _ in range(draw(st.integers(1, 6))):
        place = min(draw(places), max(len(raw) - 9, 0))
        match draw(st.sampled_from(["word", "half", "cut", "double", "move"])):
            case "word":
                raw[place : place + 8] = struct.pack("<Q", draw(WORDS))
            case "half":
                raw[place : place + 4] = struct.pack("<I", draw(WORDS) & 0xFFFFFFFF)
            case "cut":
                del raw[place : place + draw(st.integers(1, 200))]
            case "double":
                raw[place:place] = raw[place : place + draw(st.integers(1, 200))]
            case _:
                part = raw[place : place + draw(st.integers(1, 64))]
                target = min(draw(places), len(raw))
                raw[target : target + len(part)] = part
    return bytes(raw)


@contextmanager
def little_memory(limit_bytes: int) -> Iterator[None]:
    """Fails if more is allocated at any time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit_bytes
    finally:
        tracemalloc.stop()


@given(data=st.data())
@settings(
    max_examples=150, deadline=60_000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_spoiled_file_costs_nothing(whole: bytes, tmp_path: Path, data: st.DataObject) -> None:
    """A file of kilobytes never takes megabytes, whatever it claims; nor another kind of error."""
    path = tmp_path / "spoiled.gguf"
    path.write_bytes(data.draw(spoiled(whole)))
    with little_memory(4 << 20):
        try:
            contents = read_gguf(path)
            for name in contents.tensors:
                contents.tensor(name)
        except GGUFError:
            pass


HEAD = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k"
LENGTHS = (2**22, 2**31, 2**32, 2**40, 2**62, 2**63, 2**64 - 1)


@pytest.mark.parametrize("count", LENGTHS)
@pytest.mark.parametrize("element", [0, 1, 6, 7, 8, 9, 10, 12])
def test_an_array_bomb_costs_nothing(element: int, count: int, tmp_path: Path) -> None:
    """49 bytes that claim an array: readers were seen to hang, or to take gigabytes."""
    path = tmp_path / "bomb.gguf"
    path.write_bytes(HEAD + struct.pack("<IIQ", 9, element, count))
    with little_memory(1 << 20), pytest.raises(GGUFError, match=r"bomb\.gguf"):
        read_gguf(path)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_text_bomb_costs_nothing(length: int, tmp_path: Path) -> None:
    """The same with the length of one text."""
    path = tmp_path / "bomb.gguf"
    path.write_bytes(HEAD + struct.pack("<IQ", 8, length))
    with little_memory(1 << 20), pytest.raises(GGUFError, match=r"bomb\.gguf"):
        read_gguf(path)


def sparse(path: Path, head: bytes, size_bytes: int) -> Path:
    """A file that is as large as it claims to be, and takes no room: behind its head are zeros."""
    path.write_bytes(head)
    os.truncate(path, size_bytes)
    return path


MANY_KEYS = 2**16 + 1
LARGE = {
    "array": (HEAD + struct.pack("<IIQ", 9, 0, 2**27), 2**28, "claims 134217728 values"),
    "text": (HEAD + struct.pack("<IQ", 8, 2**29), 2**30, "has 536870912 bytes, at most"),
    "key": (HEAD[:24] + struct.pack("<Q", 2**20), 2**21, "has 1048576 bytes, at most 65535"),
    "keys": (
        b"GGUF" + struct.pack("<IQQ", 3, 0, MANY_KEYS),
        2**21,
        "metadata count is 65537, at most 65536",
    ),
    "tensors": (
        b"GGUF" + struct.pack("<IQQ", 3, MANY_KEYS, 0),
        2**21,
        "tensor count is 65537, at most 65536",
    ),
}


@pytest.mark.parametrize(("head", "size_bytes", "told"), LARGE.values(), ids=LARGE)
def test_a_large_file_that_keeps_its_promise_costs_nothing(
    head: bytes, size_bytes: int, told: str, tmp_path: Path
) -> None:
    """A hostile file may be as large as a model: what it claims is there, and is not taken."""
    path = sparse(tmp_path / "large.gguf", head, size_bytes)
    with little_memory(1 << 20), pytest.raises(GGUFError, match=told):
        read_gguf(path)


def test_a_piece_of_any_length_costs_nothing(tmp_path: Path) -> None:
    """It would be cut at each of its characters, and every half hashed: a square of its length."""
    tokens = ["<unk>", "a", "a" * 1025]
    keys = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * len(tokens),
    }
    with pytest.raises(GGUFError, match="a token has 1025 characters, at most 1024"):
        GGUFTokenizer(tmp_path / "long.gguf", keys).write(tmp_path, max_length=8)
