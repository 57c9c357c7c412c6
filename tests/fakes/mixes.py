"""Models without numbers: names and shapes of tensors, and the types that llama.cpp chose.

The table in ``tests/data`` was made by llama.cpp's own ``llama-quantize --dry-run``; a live test
holds it against the tool again. ``python tests/fakes/mixes.py PATH_OF_LLAMA_QUANTIZE`` writes it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ollama_bridge.conversion.tensors import TensorPlan
from ollama_bridge.conversion.writer import write_gguf
from ollama_bridge.models.architectures import ARCHITECTURES
from ollama_bridge.models.architectures.entries import array, number, text
from ollama_bridge.quantization.file_types import FILE_TYPES
from ollama_bridge.quantization.mixes import ModelShape, plan_types

TABLE = Path(__file__).parent.parent / "data" / "llama_quantize_types.json"
QUANTIZED = tuple(name for name in FILE_TYPES if name not in ("f32", "f16", "bf16"))
_SIZES: Mapping[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}

# Name of the case: class, and what is not as in _SIZES.
MIXES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "tied": ("LlamaForCausalLM", {"num_hidden_layers": 21}),
    "untied": ("LlamaForCausalLM", {"num_hidden_layers": 30, "tie_word_embeddings": False}),
    "odd-rows": (
        "LlamaForCausalLM",
        {"num_hidden_layers": 10, "hidden_size": 96, "intermediate_size": 256},
    ),
    "odder-rows": (
        "LlamaForCausalLM",
        {"num_hidden_layers": 5, "hidden_size": 48, "intermediate_size": 96},
    ),
    "grouped": ("Qwen3ForCausalLM", {"num_hidden_layers": 9, "num_key_value_heads": 1}),
    "fused": ("Phi3ForCausalLM", {"num_hidden_layers": 17, "tie_word_embeddings": False}),
    "norms-everywhere": (
        "Olmo2ForCausalLM",
        {"num_hidden_layers": 11, "tie_word_embeddings": False},
    ),
    "a-70b": ("LlamaForCausalLM", {"num_hidden_layers": 80}),
    "a-72b": ("Qwen2ForCausalLM", {"num_hidden_layers": 80, "num_key_value_heads": 4}),
    "a-65b": ("LlamaForCausalLM", {"num_hidden_layers": 80, "num_key_value_heads": 4}),
}


def shapes_of(case: str) -> tuple[ModelShape, dict[str, tuple[int, ...]]]:
    """The model of a case, and its tensors' shapes by name, rows first."""
    name, changes = MIXES[case]
    config = {**_SIZES, **changes}
    architecture = ARCHITECTURES[name]
    dims = architecture.dimensions(config)
    rules = [rule for rule in architecture.rules(config) if not rule.optional]
    shape = ModelShape(architecture.name, dims.layers, dims.heads, dims.kv_heads)
    return shape, {rule.target: rule.shape for rule in rules}


def write_empty(case: str, path: Path) -> None:
    """Write a case as an F32 file of zeros, for ``llama-quantize``."""
    name, changes = MIXES[case]
    config = {**_SIZES, **changes}
    model, shapes = shapes_of(case)
    tokens = [f"t{index}" for index in range(config["vocab_size"])]
    write_gguf(
        path,
        architecture=model.architecture,
        entries=[
            text("general.type", "model"),
            number("general.file_type", 0),
            *ARCHITECTURES[name].entries(config),
            text("tokenizer.ggml.model", "gpt2"),
            text("tokenizer.ggml.pre", "smollm"),
            array("tokenizer.ggml.tokens", tokens, 8),
        ],
        plans=[
            TensorPlan(name, shape, partial(np.zeros, shape, np.float32))
            for name, shape in shapes.items()
        ],
        types=plan_types("f32", shapes, model),
        on_tensor=lambda _: None,
    )


def chosen_by_llama_quantize(tool: Path, source: Path, file_type: str) -> dict[str, str]:
    """The type of every quantized tensor, as the tool says without doing it."""
    done = subprocess.run(
        [str(tool), "--dry-run", str(source), file_type],
        capture_output=True,
        text=True,
        check=True,
    )
    line = re.compile(r"\] +(\S+) +- \[.*size = .* -> .* \((\w+)\)")
    return {m[1]: m[2].upper() for m in map(line.search, done.stderr.splitlines()) if m}


def compact(types: Mapping[str, str]) -> dict[str, str]:
    """A table of tensors as lines: runs of types, as ``2 Q6_K, 3 Q4_K``, to the parts of layers."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in sorted(types, key=lambda name: [int(n) for n in re.findall(r"blk\.(\d+)", name)]):
        found[re.sub(r"blk\.\d+\.|\.weight$", "", name)].append(types[name])
    parts: dict[str, list[str]] = defaultdict(list)
    for part, chosen in sorted(found.items()):
        runs = ", ".join(f"{len(list(run))} {type_}" for type_, run in groupby(chosen))
        parts[runs].append(part)
    return {runs: " ".join(alike) for runs, alike in parts.items()}


def main(tool: Path) -> None:
    """Write the table."""
    table = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in MIXES:
            source = Path(folder) / f"{case}.gguf"
            write_empty(case, source)
            table[case] = {
                type_: compact(chosen_by_llama_quantize(tool, source, type_)) for type_ in QUANTIZED
            }
    TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
