"""The finetune stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fakes.trainable import LABELS, SYSTEM
from safetensors.torch import load_file

from ollama_bridge.artifacts import Checkpoint, Corpus
from ollama_bridge.config import LoraSection, TuneSection
from ollama_bridge.train.finetune import finetune

SETTINGS = TuneSection(
    epochs=2, batch_tokens=400, lr=1e-2, dtype="float32", lora=LoraSection(r=4, alpha=8)
)


def test_tuned_checkpoint_is_merged_and_complete(
    base: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    """The result is a plain float32 checkpoint without adapters, with log and reference values."""
    tuned = finetune(
        base, corpus, SETTINGS, system=SYSTEM, labels=LABELS, out_dir=tmp_path / "tuned"
    )
    before = load_file(base.path / "model.safetensors")
    after = load_file(tuned.path / "model.safetensors")
    assert set(after) == set(before)
    assert all(value.dtype == torch.float32 for value in after.values())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "_proj" in name}
    log = json.loads((tuned.path / "training.json").read_text())["log"]
    scores = [entry["validation"]["ce"] for entry in log if "validation" in entry]
    assert len(scores) == 2
    assert scores[1] < scores[0]
    assert tuned.reference_path.exists()


@pytest.mark.usefixtures("no_reference_values")
def test_part_of_the_examples_can_be_chosen(
    base: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    """max_examples trains on that many, the same ones for the same seed."""
    settings = SETTINGS.model_copy(update={"max_examples": 5, "epochs": 1})
    runs = [
        finetune(base, corpus, settings, system=SYSTEM, out_dir=tmp_path / name)
        for name in ("a", "b")
    ]
    assert runs[0].facts["train_examples"] == 5
    assert runs[0].digest == runs[1].digest
