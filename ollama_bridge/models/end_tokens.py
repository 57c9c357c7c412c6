"""Which tokens end what a model writes."""

from __future__ import annotations

from typing import Any


def end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """The ends that the generation config names, and the tokenizer's own."""
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(int(id_) for id_ in (*ids, tokenizer.eos_token_id) if id_ is not None)
