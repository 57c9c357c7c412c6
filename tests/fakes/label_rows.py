"""A small store of soft labels, of a teacher that is made up."""

from __future__ import annotations

from pathlib import Path

import torch

from ollama_bridge.label_store.formats import format_of
from ollama_bridge.label_store.info import StoreInfo
from ollama_bridge.label_store.segments import Row
from ollama_bridge.label_store.shared import open_store

INFO = StoreInfo(
    method="top_k", vocab_size=50, teacher="t", tokenizer="k", dtype="float32", top_k=4
)
TEACHER = Path("/models/teacher")


def row(number: int) -> Row:
    """A row of ``number + 1`` positions."""
    generator = torch.Generator().manual_seed(number)
    logits = 4 * torch.randn(number + 1, 50, generator=generator)
    key = bytes([number]) * 16
    (block,) = format_of(INFO).blocks([logits], [key], [number + 1])
    return Row(key, number + 1, block)


def fill(stores: Path, numbers: list[int], artifact: Path) -> None:
    """What a run does: add what is missing, and link all of it."""
    rows = [row(number) for number in numbers]
    with open_store(stores, INFO, teacher_path=TEACHER) as store:
        store.append([one for one in rows if one.key not in store])
        store.link_into(artifact, [one.key for one in rows], user=artifact)
