"""Every architecture through the stages that train: tuned, labelled, distilled, exported."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from fakes.architectures import CASES, build_checkpoint
from fakes.trainable import SYSTEM, commit, log_of, tiny_corpus, weights_of
from gguf import GGUFReader

from ollama_bridge.conversion import convert
from ollama_bridge.models.architectures import ARCHITECTURES
from ollama_bridge.recipe.config import (
    DistillSection,
    LoraSection,
    SoftLabelsSection,
    StudentSection,
    TuneSection,
)
from ollama_bridge.storage.artifacts import Checkpoint, Corpus
from ollama_bridge.teacher.local import label
from ollama_bridge.train.distill import distill
from ollama_bridge.train.finetune import finetune

# All of the corpus is one batch: on the same texts every step has to do better.
_STEPS = 3
_TUNE = TuneSection(
    epochs=_STEPS, batch_tokens=10_000, lr=2e-3, dtype="float32", lora=LoraSection(r=4, alpha=8)
)
# Stored labels, and the teacher's layers beside.
_DISTILL = DistillSection.model_validate(
    {
        "epochs": _STEPS,
        "batch_tokens": 10_000,
        "lr": 1e-3,
        "dtype": "float32",
        "losses": [
            {"loss": "cross_entropy", "weight": 0.5},
            {"loss": "kl_forward", "weight": 0.5},
            {"loss": "hidden", "weight": 0.5},
            {"loss": "attention", "weight": 0.5},
        ],
    }
)
# The first case of every architecture.
_FIRST = {config: case for case, (config, _) in reversed(CASES.items())}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A batch of classification examples."""
    return tiny_corpus(tmp_path_factory.mktemp("texts") / "corpus", train=6)


def assert_learnt(trained: Checkpoint, *names: str) -> None:
    """Each loss was a number at every step, their sum smaller at the end."""
    steps = [entry for entry in log_of(trained) if "loss" in entry]
    assert len(steps) == _STEPS
    assert all(math.isfinite(entry[name]) for entry in steps for name in names)
    assert steps[-1]["loss"] < steps[0]["loss"]


def test_every_architecture_is_trained() -> None:
    """None of the registry is left out."""
    assert len(_FIRST) == len(ARCHITECTURES)


@pytest.mark.usefixtures("no_reference_values")
@pytest.mark.parametrize("case", _FIRST.values())
def test_tuned_labelled_distilled_and_exported(case: str, texts: Corpus, tmp_path: Path) -> None:
    """A tuned teacher, its labels, a student of one layer less, and a GGUF of all its weights."""
    base = commit(Checkpoint, tmp_path / "base", lambda path: build_checkpoint(case, path))
    teacher = finetune(base, texts, _TUNE, system=SYSTEM, out_dir=tmp_path / "teacher")
    assert_learnt(teacher, "ce")
    labels = label(
        teacher,
        texts,
        SoftLabelsSection(top_k=8),
        max_length=512,
        dtype="float32",
        out_dir=tmp_path / "labels",
    )
    student = distill(
        teacher,
        texts,
        labels,
        _DISTILL,
        student=StudentSection(layers=CASES[case][1]["num_hidden_layers"] - 1),
        teacher=teacher,
        system=SYSTEM,
        out_dir=tmp_path / "student",
    )
    assert_learnt(student, "ce", "kl", "hidden", "attention")
    student.reference_path.unlink()  # which says nothing here
    gguf = convert(student, type="q8_0", out_dir=tmp_path / "gguf")
    weights = weights_of(student).values()
    written = GGUFReader(gguf.gguf_path).tensors
    assert sum(int(tensor.n_elements) for tensor in written) == sum(one.numel() for one in weights)
