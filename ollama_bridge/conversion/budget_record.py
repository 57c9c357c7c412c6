"""What a file says of the budget that it was made for, and how many bytes that takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gguf.constants import GGUF_DEFAULT_ALIGNMENT

from ollama_bridge.conversion.budget import Chosen
from ollama_bridge.conversion.budget_search import Target
from ollama_bridge.conversion.budget_texts import OWN_ANSWERS
from ollama_bridge.conversion.tensors import TensorPlan
from ollama_bridge.conversion.writer import write_gguf
from ollama_bridge.models.architectures.entries import Entry, real, text
from ollama_bridge.reference import NOISE_DIFFERENCE_KEY, NOISE_MEAN_KL_KEY

# Of a tensor's line in the table beside its name: lengths, dimensions, type and offset.
_LINE_BYTES = 8 + 4 + 8 * 4 + 4 + 8


def budget_entries(target: Target, chosen: Chosen | None) -> list[Entry]:
    """Metadata; without a choice, entries of the same size."""
    kl_nats = chosen.point.kl_nats if chosen is not None else 0.0
    noise = chosen.noise if chosen is not None else None
    return [
        text("ollama_bridge.budget.target", str(target)),
        real("ollama_bridge.budget.kl_nats", kl_nats),
        real(NOISE_DIFFERENCE_KEY, noise.max_difference if noise is not None else 0.0),
        real(NOISE_MEAN_KL_KEY, noise.mean_kl_nats if noise is not None else 0.0),
    ]


def budget_notes(chosen: Chosen) -> list[str]:
    """What the user should know of the measurement."""
    if chosen.texts != OWN_ANSWERS:
        return []
    return [
        "the budget is measured on the model's own answers to synthetic prompts: --corpus measures "
        "it on your own texts"
    ]


def head_bytes(
    path: Path, architecture: str, entries: Sequence[Entry], plans: Sequence[TensorPlan]
) -> int:
    """Bytes of a file beside its tensors, at most, tried at a path: metadata, table and padding."""
    write_gguf(
        path,
        architecture=architecture,
        entries=entries,
        plans=(),
        types={},
        on_tensor=lambda _: None,
    )
    metadata = path.stat().st_size
    path.unlink()
    lines = sum(_LINE_BYTES + len(plan.name.encode()) for plan in plans)
    return metadata + lines + (len(plans) + 1) * GGUF_DEFAULT_ALIGNMENT
