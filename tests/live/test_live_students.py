"""A student of the real SmolLM2 with every cut there is, untrained, proven in the daemon."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.exports import SYSTEM, Exports, modelfile_of
from fakes.trainable import LABELS, commit, tiny_corpus

from ollama_bridge.client import Client
from ollama_bridge.conversion import convert
from ollama_bridge.models.compute.precision import choose_precision
from ollama_bridge.models.load import load_model, save_checkpoint
from ollama_bridge.models.pruning.tokens import keep_tokens
from ollama_bridge.models.reference.values import write_reference_values
from ollama_bridge.recipe.config import OptimizerSection, StudentSection
from ollama_bridge.registration import register
from ollama_bridge.reporting import NullReporter
from ollama_bridge.storage.artifacts import Checkpoint
from ollama_bridge.train.corpus_vocabulary import corpus_vocabulary
from ollama_bridge.train.material import load_material
from ollama_bridge.train.student import cut_student

pytestmark = pytest.mark.live

STUDENT = StudentSection(
    layers=6,
    layer_choice="influence",
    heads=6,
    mlp_channels=768,
    hidden_size=384,
    vocabulary="corpus",
    calibration_tokens=256,
)


def test_a_narrow_student_with_few_tokens_is_what_the_daemon_serves(
    smollm: Exports, client: Client, tmp_path: Path
) -> None:
    """Prompts, tokens, log-probabilities and answers of the cut model, on texts of all scripts."""
    base = smollm.checkpoint.path
    corpus = tiny_corpus(tmp_path / "corpus")
    vocabulary = corpus_vocabulary(base, corpus, system=SYSTEM, labels=LABELS)
    material = load_material(
        base,
        corpus,
        OptimizerSection(),
        stage="test",
        reporter=NullReporter(),
        vocabulary=vocabulary,
    )
    student, parts = cut_student(
        keep_tokens(load_model(base), vocabulary),
        STUDENT,
        material,
        precision=choose_precision("float32"),
        state_dir=tmp_path,
        stage="test",
        reporter=NullReporter(),
    )
    assert len(parts.layers) == 6
    assert student.config.vocab_size < 1000

    def write(folder: Path) -> None:
        save_checkpoint(student, material.tokenizer, folder)
        write_reference_values(folder, system=SYSTEM, labels=LABELS)

    gguf = convert(
        commit(Checkpoint, tmp_path / "student", write), type="f16", out_dir=tmp_path / "gguf"
    )
    model = register(
        gguf, modelfile_of(gguf, SYSTEM), "live-student", client=client, out_dir=tmp_path / "tag"
    )
    assert model.facts["passed"]
    client.delete(model.tag)
