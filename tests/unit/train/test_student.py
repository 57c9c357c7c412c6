"""Students of the distill stage that are measured, narrower, or have fewer tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fakes.trainable import LABELS, SYSTEM, corpus_of, log_of, tiny_base, weights_of
from pydantic import ValidationError

from ollama_bridge.errors import ArtifactError, ConfigError, TrainingError
from ollama_bridge.examples import Example, Message, read_examples
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.recipe.config import DistillSection, StudentSection
from ollama_bridge.storage.artifacts import Checkpoint, Corpus, SoftLabels
from ollama_bridge.train import student as module
from ollama_bridge.train.corpus_vocabulary import corpus_vocabulary
from ollama_bridge.train.distill import distill
from ollama_bridge.train.student import Parts

pytestmark = pytest.mark.usefixtures("no_reference_values")
SETTINGS = DistillSection(epochs=1, batch_tokens=400, lr=1e-2, dtype="float32")


def run(
    base: Checkpoint,
    corpus: Corpus,
    labels: SoftLabels | None,
    out_dir: Path,
    student: StudentSection,
    *,
    settings: DistillSection = SETTINGS,
    teacher: Checkpoint | None = None,
) -> Checkpoint:
    return distill(
        base,
        corpus,
        labels,
        settings,
        student=student,
        teacher=teacher,
        system=SYSTEM,
        task_labels=LABELS,
        out_dir=out_dir,
    )


NARROW = StudentSection(
    layers=2,
    layer_choice="influence",
    heads=2,
    mlp_channels=64,
    hidden_size=48,
    vocabulary="corpus",
    calibration_tokens=300,
)


def test_a_narrow_student_with_few_tokens_is_a_checkpoint(
    base: Checkpoint, corpus: Corpus, labels: SoftLabels, tmp_path: Path
) -> None:
    """All cuts together: it learns, loads, says what it has, and is the same when made again."""
    made = run(base, corpus, labels, tmp_path / "a", NARROW)
    model, tokenizer = load_model(made.path), load_tokenizer(made.path)
    assert model.config.num_hidden_layers == 2
    assert (model.config.num_attention_heads, model.config.num_key_value_heads) == (2, 1)
    assert (model.config.intermediate_size, model.config.hidden_size) == (64, 48)
    assert model.config.head_dim == 16
    assert model.config.vocab_size == len(tokenizer) < 384
    facts = made.facts
    assert facts["key_value_heads"] == 1
    assert facts["mlp_channels"] == 64
    assert facts["hidden_size"] == 48
    assert facts["vocabulary_size"] == len(tokenizer)
    assert len(facts["layer_scores"]) == 4
    best = sorted(range(4), key=lambda layer: -facts["layer_scores"][layer])[:2]
    assert facts["layers"] == sorted(best)
    parts = json.loads((made.path / "student.json").read_text())
    assert parts["layers"] == facts["layers"]
    assert len(parts["kept"]["channels"]) == 2
    assert {"ce", "kl"} <= set(log_of(made)[-1]["validation"])
    assert run(base, corpus, labels, tmp_path / "b", NARROW).digest == made.digest


@pytest.mark.parametrize("choice", ["influence", "loss"])
def test_layers_can_be_chosen_by_measurement(
    base: Checkpoint, corpus: Corpus, tmp_path: Path, choice: str
) -> None:
    """The layers with the highest scores stay; the scores are in the facts."""
    student = StudentSection(layers=3, layer_choice=choice, calibration_tokens=200)
    made = run(base, corpus, None, tmp_path / "student", student)
    scores = made.facts["layer_scores"]
    dropped = next(layer for layer in range(4) if layer not in made.facts["layers"])
    assert scores[dropped] == min(scores)


def test_what_was_measured_is_not_measured_again(
    base: Checkpoint, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run trains the student that was begun, even if it would now measure another."""
    student = NARROW.model_copy(update={"vocabulary": "full"})

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ollama_bridge.train.distill.train", fail)
        with pytest.raises(KeyboardInterrupt):
            run(base, corpus, None, tmp_path / "student", student)
    monkeypatch.setattr(module, "activity", fail)
    monkeypatch.setattr(module, "block_influence", fail)
    made = run(base, corpus, None, tmp_path / "student", student)
    assert made.facts["mlp_channels"] == 64


@pytest.mark.parametrize("text", ["", "{}", '{"layers": 3}'])
def test_a_damaged_plan_is_named(tmp_path: Path, text: str) -> None:
    """With the command that begins afresh."""
    (tmp_path / "student.json").write_text(text)
    with pytest.raises(ArtifactError, match="damaged"):
        Parts.read(tmp_path / "student.json")


def test_plain_students_are_the_work_that_they_were() -> None:
    """Recipes from before there were other cuts find their finished stages again."""
    plain = StudentSection(layers=10)
    assert plain.effective() == {"layers": 10, "layer_choice": "first"}
    assert StudentSection(layers=(1, 2)).effective() == {"layers": [1, 2], "layer_choice": "first"}
    measured = NARROW.effective()
    assert measured["calibration_tokens"] == 300
    assert measured["calibration_texts"] == "of all labels"
    other = plain.model_copy(update={"calibration_tokens": 9})
    assert other.effective() == plain.effective()


def test_layers_are_named_in_their_order() -> None:
    """What a layer has to reach is what the next one that was kept reads."""
    with pytest.raises(ValidationError, match="in the order in which the teacher runs"):
        StudentSection(layers=(2, 0))


def test_a_trimmed_student_has_the_rows_of_its_tokens(
    base: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    """Its embedding is cut out of the start's, and the corpus has the same tokens in it."""
    student = StudentSection(layers=2)
    trimmed = run(
        base, corpus, None, tmp_path / "a", student.model_copy(update={"vocabulary": "corpus"})
    )
    parts = Parts.read(trimmed.path / "student.json")
    assert parts.tokens is not None
    weights, start = weights_of(trimmed), weights_of(base)
    name = "model.embed_tokens.weight"
    assert torch.equal(weights[name], start[name][list(parts.tokens)])
    tokenizer, source = load_tokenizer(trimmed.path), load_tokenizer(base.path)
    for split in ("train", "validation"):
        for example in read_examples(corpus.split_path(split)):
            for message in example.messages:
                assert tokenizer.tokenize(message.content) == source.tokenize(message.content)


def test_rows_that_nobody_answered_are_not_in_the_vocabulary(
    base: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    """A few are left out in training; what they say is not learnt."""
    asked = Example("open", (Message("user", "Größe 12"),), "open")
    splits = {
        split: [asked, *read_examples(corpus.split_path(split))]
        for split in ("train", "validation")
    }
    with_open = corpus_of(tmp_path / "corpus", splits)
    found, plain = (
        corpus_vocabulary(base.path, one, system=None, labels=LABELS).source_ids.tolist()
        for one in (with_open, corpus)
    )
    assert found == plain


def test_hidden_states_are_read_in_the_students_tokens(
    base: Checkpoint, corpus: Corpus, labels: SoftLabels, tmp_path: Path
) -> None:
    """The teacher of hidden states is given the same words, and one of other tokens is refused."""
    settings = SETTINGS.model_copy(update={"hidden_epochs": 1.0})
    student = StudentSection(vocabulary="corpus")
    made = run(base, corpus, labels, tmp_path / "a", student, settings=settings, teacher=base)
    log = log_of(made)
    # Nothing was cut but tokens: at first the student's states are the teacher's.
    assert next(entry["hidden"] for entry in log if entry["phase"] == "hidden") < 1e-6
    other = tiny_base(tmp_path / "other")
    tokenizer = load_tokenizer(other.path)
    tokenizer.chat_template = tokenizer.chat_template.replace("noise", "words")
    tokenizer.save_pretrained(other.path)
    with pytest.raises(TrainingError, match="another tokenizer or chat template than the student"):
        run(base, corpus, labels, tmp_path / "b", student, settings=settings, teacher=other)


def test_too_narrow_is_refused_before_training(
    base: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    """One of two heads that share keys cannot stay alone."""
    with pytest.raises(ConfigError, match="stay together"):
        run(base, corpus, None, tmp_path / "a", StudentSection(heads=1))
    assert not (tmp_path / "a").exists()
