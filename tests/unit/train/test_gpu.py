"""On a GPU, NVIDIA's or Apple's: one short distillation and one LoRA, as good as on the CPU.

Where there are two, ``test_ranks`` runs on both of them by nccl.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fakes.trainable import SYSTEM, log_of, weights_of

from ollama_bridge.models.compute import precision
from ollama_bridge.recipe.config import DistillSection, LoraSection, StudentSection, TuneSection
from ollama_bridge.storage.artifacts import Checkpoint, Corpus, SoftLabels
from ollama_bridge.train.distill import distill
from ollama_bridge.train.finetune import finetune

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(precision.best_device().type == "cpu", reason="neither CUDA nor MPS"),
    pytest.mark.usefixtures("no_reference_values"),
]


def assert_alike(ours: Checkpoint, theirs: Checkpoint, *, rel: float, atol: float) -> None:
    """The same losses and weights, up to another order of sums."""
    for mine, other in zip(log_of(ours), log_of(theirs), strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], rel=rel)
    left, right = weights_of(ours), weights_of(theirs)
    assert set(left) == set(right)
    for name, value in left.items():
        assert torch.allclose(value, right[name], atol=atol), name


@pytest.mark.parametrize(
    ("dtype", "rel", "atol"), [("float32", 1e-3, 1e-3), ("bfloat16", 5e-2, 5e-2)]
)
def test_distillation_equals_the_cpu(
    base: Checkpoint,
    corpus: Corpus,
    labels: SoftLabels,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    rel: float,
    atol: float,
) -> None:
    """Soft labels, hidden states and split batches, in both types."""
    settings = DistillSection(
        epochs=2, batch_tokens=400, micro_batch_tokens=200, lr=1e-3, hidden_weight=0.1, dtype=dtype
    )

    def run(name: str) -> Checkpoint:
        student = StudentSection(layers=2)
        return distill(
            base,
            corpus,
            labels,
            settings,
            student=student,
            teacher=base,
            system=SYSTEM,
            out_dir=tmp_path / name,
        )

    on_gpu = run("gpu")
    assert on_gpu.facts["peak_memory_mb"] > 0
    assert not list(on_gpu.path.glob("resume*"))
    monkeypatch.setattr(precision, "best_device", lambda: torch.device("cpu"))
    assert_alike(on_gpu, run("cpu"), rel=rel, atol=atol)


def test_lora_equals_the_cpu(
    base: Checkpoint, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adapters learn and merge on the device as they do on the CPU."""
    settings = TuneSection(
        epochs=2, batch_tokens=400, lr=1e-3, dtype="float32", lora=LoraSection(r=4, alpha=8)
    )
    on_gpu = finetune(base, corpus, settings, system=SYSTEM, out_dir=tmp_path / "gpu")
    monkeypatch.setattr(precision, "best_device", lambda: torch.device("cpu"))
    on_cpu = finetune(base, corpus, settings, system=SYSTEM, out_dir=tmp_path / "cpu")
    assert_alike(on_gpu, on_cpu, rel=1e-3, atol=1e-3)
