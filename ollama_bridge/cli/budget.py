"""``--budget`` and ``--max-size``: what they mean, and the table of what was chosen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ollama_bridge.cli import output
from ollama_bridge.errors import ConfigError
from ollama_bridge.quantization.sizes import parse_size
from ollama_bridge.storage.artifacts import GGUFFile

if TYPE_CHECKING:
    from ollama_bridge.conversion import Target


def read_target(
    budget: float | None, max_size: str | None, corpus: Path | None, *, gguf_type: str | None
) -> Target | None:
    """What a file has to keep; None: it is of one type.

    Raises:
        ConfigError: two of budget, size and type are given, one is not positive, or a corpus
            without a budget or a size.
    """
    if budget is None and max_size is None:
        if corpus is not None:
            raise ConfigError(
                "--corpus is only for --budget or --max-size, and neither is given",
                hint="add --budget 0.01",
            )
        return None
    if gguf_type is not None:
        other = "--budget" if budget is not None else "--max-size"
        raise ConfigError(
            f"--type {gguf_type} gives all of the file one type, and {other} chooses the types",
            hint=f"leave out --type or {other}",
        )
    size_bytes = parse_size(max_size) if max_size is not None else None
    from ollama_bridge.extras import require_training_extra

    require_training_extra()
    from ollama_bridge.conversion import Target

    return Target(kl_nats=budget, size_bytes=size_bytes)


def print_budget(gguf: GGUFFile) -> None:
    """What was chosen for each part of a layer, and llama.cpp's mixes beside it."""
    budget = gguf.facts["budget"]
    rows = [
        {
            "GROUP": row["group"],
            "TYPE": row["type"],
            "MATRICES": row["matrices"],
            "SIZE": output.size(row["size_bytes"]),
            "KL": f"{row['kl_share']:.1%}",
        }
        for row in budget["groups"]
    ]
    output.table(rows)
    output.data("")
    files = [
        {"name": "this file", "size_bytes": gguf.facts["size_bytes"], "kl_nats": budget["kl_nats"]},
        *budget["presets"],
    ]
    rows = [
        {
            "FILE": file["name"],
            "SIZE": output.size(file["size_bytes"]),
            "MEAN KL": f"{file['kl_nats']:.3g} nats",
        }
        for file in files
    ]
    output.table(rows)
    output.data("")
    output.say(f"measured on {budget['texts']}, {budget['positions']} positions")
    output.say(f"as a picture, with the sizes between: {gguf.path / 'tradeoff.svg'}")
