"""Blocks that llama.cpp's own code makes of a few rows, kept as data.

``python tests/fakes/blocks.py`` writes them anew, by ``libgguf``, which is that code.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType

from ollama_bridge.quantization.encoders import BLOCK_TYPES

FILE = Path(__file__).parent.parent / "data" / "llama_cpp_blocks.json"


@dataclass(frozen=True)
class GoldenBlocks:
    """(4, 512) values, (512,) importance, and the blocks by type, without and with it."""

    values: np.ndarray[Any, np.dtype[np.float32]]
    importance: np.ndarray[Any, np.dtype[np.float32]]
    plain: dict[GGMLQuantizationType, np.ndarray[Any, np.dtype[np.uint8]]]
    weighted: dict[GGMLQuantizationType, np.ndarray[Any, np.dtype[np.uint8]]]


def read_blocks() -> GoldenBlocks:
    """What is in the file."""
    data = json.loads(FILE.read_text(encoding="utf-8"))

    def numbers(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        return np.frombuffer(b64decode(text), np.float16).astype(np.float32)

    def blocks(texts: dict[str, str]) -> dict[GGMLQuantizationType, Any]:
        return {
            GGMLQuantizationType[name]: np.frombuffer(b64decode(text), np.uint8).reshape(4, -1)
            for name, text in texts.items()
        }

    return GoldenBlocks(
        numbers(data["values"]).reshape(4, 512),
        numbers(data["importance"]),
        blocks(data["plain"]),
        blocks(data["weighted"]),
    )


def main() -> None:
    """Write the file."""
    import libgguf

    random = np.random.default_rng(4)
    values = (0.05 * random.standard_t(4, size=(4, 512))).astype(np.float16)
    values[1, :256] += np.float16(0.3)  # far from zero: what minima are for
    values[2, 64:96] = 0
    importance = np.exp(random.normal(size=512)).astype(np.float16)
    rows, weights = values.astype(np.float32), importance.astype(np.float32)

    def text(array: np.ndarray[Any, Any]) -> str:
        return b64encode(array.tobytes()).decode()

    data = {
        "values": text(values),
        "importance": text(importance),
        "plain": {t.name: text(libgguf.quantize_rows(rows, int(t))) for t in BLOCK_TYPES},
        "weighted": {
            t.name: text(libgguf.quantize_rows(rows, int(t), weights)) for t in BLOCK_TYPES
        },
    }
    FILE.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
