"""Merging as a function on folders; the work is done in :mod:`ollama_bridge.models.merge`.

It lives there because a model reference may name an adapter too.
"""

from __future__ import annotations

from pathlib import Path

from ollama_bridge.models.merge import merge_adapter


def merge_lora(base: Path, adapter: Path, out: Path) -> Path:
    """Write base + LoRA adapter as one Hugging Face folder with float32 weights.

    Args:
        base: The folder of the base model.
        adapter: The folder of the PEFT adapter.
        out: Where to.

    Returns:
        ``out``.

    Raises:
        ModelError: the adapter does not fit the base, or uses what cannot be merged.
        DiskFullError: there is no room.
    """
    merge_adapter(base, adapter, out)
    return out
