"""The beginning of a GGUF: the bytes of the gguf package's own writer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter

from ollama_bridge.conversion.gguf_head import TableRow, pack_head
from ollama_bridge.models.architectures.entries import Entry, array, flag, number, real, text

V = GGUFValueType
TABLE = [
    TableRow("token_embd.weight", (5, 33), GGMLQuantizationType.F16, 330),
    TableRow("output_norm.weight", (33,), GGMLQuantizationType.F32, 132),
    TableRow("blk.0.ffn_up.weight", (2, 256), GGMLQuantizationType.Q4_K, 288),
]


def theirs(path: Path, entries: list[Entry], table: list[TableRow]) -> bytes:
    """What the gguf package writes."""
    writer = GGUFWriter(path, "llama")
    for entry in entries:
        writer.add_key_value(entry.key, entry.value, entry.type, entry.element_type)
    for row in table:
        writer.add_tensor_info(
            row.name, row.shape, np.dtype(np.float32), row.size_bytes, raw_dtype=row.type
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return path.read_bytes()


def test_the_bytes_are_those_of_the_gguf_package(tmp_path: Path) -> None:
    """Every kind of value, and offsets that need padding."""
    entries = [
        text("general.name", "naïve ▁model"),
        text("empty", ""),
        number("llama.block_count", 2**32 - 1),
        real("llama.rope.freq_base", 0.1),
        flag("tokenizer.ggml.add_bos_token", value=True),
        flag("tokenizer.ggml.add_eos_token", value=False),
        array("tokenizer.ggml.tokens", ["<s>", "", "é", "\x00"], V.STRING),
        array("tokenizer.ggml.scores", [-1e10, 0.1, 3], V.FLOAT32),
        array("tokenizer.ggml.token_type", [1, 3, -6], V.INT32),
        array("flags", [True, False], V.BOOL),
        *(
            Entry(f"number.{type_.name}", 7, type_)
            for type_ in V
            if type_ not in (V.STRING, V.ARRAY)
        ),
    ]
    assert pack_head("llama", entries, TABLE) == theirs(tmp_path / "x.gguf", entries, TABLE)
