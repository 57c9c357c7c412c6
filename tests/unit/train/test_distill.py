"""The distill stage: what it reads, refuses, and leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.listening import Listener
from fakes.trainable import (
    LABELS,
    SYSTEM,
    commit,
    log_of,
    scores_of,
    tiny_base,
    tiny_corpus,
    weights_of,
)

from ollama_bridge.errors import ConfigError, ModelError, TrainingError
from ollama_bridge.models.compute import memory
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.recipe.config import (
    DistillSection,
    EarlyStoppingSection,
    SoftLabelsSection,
    StudentSection,
)
from ollama_bridge.reporting import StageReused
from ollama_bridge.storage.artifacts import Checkpoint, Corpus, SoftLabels
from ollama_bridge.teacher.local import label
from ollama_bridge.train import distill as module
from ollama_bridge.train.distill import distill

SETTINGS = DistillSection(epochs=1, batch_tokens=400, lr=1e-2, dtype="float32")
TWO_LAYERS = StudentSection(layers=2, layer_choice="even")


def equal(left: Checkpoint, right: Checkpoint) -> bool:
    ours, theirs = weights_of(left), weights_of(right)
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def evaluated(student: Checkpoint) -> list[int]:
    """The steps behind which it was."""
    return [entry["step"] for entry in log_of(student) if "validation" in entry]


def run(
    start: Checkpoint,
    corpus: Corpus,
    labels: SoftLabels | None,
    out_dir: Path,
    *,
    student: StudentSection = TWO_LAYERS,
    teacher: Checkpoint | None = None,
    reporter: Listener | None = None,
    **changes: Any,
) -> Checkpoint:
    return distill(
        start,
        corpus,
        labels,
        SETTINGS.model_copy(update=changes),
        student=student,
        teacher=teacher,
        system=SYSTEM,
        out_dir=out_dir,
        reporter=reporter,
    )


def test_a_start_that_does_not_fit_is_told_before_it_is_trained(
    base: Checkpoint, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it is loaded, however few layers are kept."""
    monkeypatch.setattr(memory, "free_bytes", lambda _: 1000)
    with pytest.raises(ModelError, match=r"for training a model: .* in float32 need"):
        run(base, corpus, None, tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_student_is_a_complete_checkpoint(
    base: Checkpoint, corpus: Corpus, labels: SoftLabels, tmp_path: Path
) -> None:
    """The student loads, has fewer layers, its own log, and reference values for the export."""
    student = distill(
        base,
        corpus,
        labels,
        SETTINGS,
        student=TWO_LAYERS,
        system=SYSTEM,
        task_labels=LABELS,
        out_dir=tmp_path / "student",
    )
    model = load_model(student.path)
    assert len(model.base_model.layers) == 2
    assert model.dtype == torch.float32
    assert load_tokenizer(student.path).chat_template == load_tokenizer(base.path).chat_template
    assert json.loads(student.reference_path.read_text())
    training = json.loads((student.path / "training.json").read_text())
    assert training["settings"]["layers"] == [0, 3]
    assert training["settings"]["dtype"] == "float32"
    assert {"ce", "kl", "exact"} <= set(training["log"][-1]["validation"])
    assert student.facts["layers"] == [0, 3]
    assert student.facts["validation_exact"] == training["log"][-1]["validation"]["exact"]
    assert set(student.manifest.work.inputs) == {"start", "corpus", "labels"}
    assert not list(student.path.glob("resume*"))


@pytest.mark.usefixtures("no_reference_values")
class TestDistill:
    def test_done_work_is_found_and_other_work_is_not(
        self, base: Checkpoint, corpus: Corpus, labels: SoftLabels, tmp_path: Path
    ) -> None:
        """The same call reuses; another learning rate trains; saving oftener is the same work."""
        first = run(base, corpus, labels, tmp_path / "student")
        listener = Listener()
        again = run(
            base,
            corpus,
            labels,
            tmp_path / "student",
            reporter=listener,
            checkpoint_interval_s=1.0,
        )
        assert again.digest == first.digest
        assert any(isinstance(event, StageReused) for event in listener.events)
        other = run(base, corpus, labels, tmp_path / "student", lr=2e-2)
        assert other.digest != first.digest

    def test_two_runs_are_equal_to_the_bit(
        self, base: Checkpoint, corpus: Corpus, labels: SoftLabels, tmp_path: Path
    ) -> None:
        """Same inputs and settings, same weights and same digest, wherever it is made."""
        runs = [run(base, corpus, labels, tmp_path / name, dtype="bfloat16") for name in ("a", "b")]
        assert equal(*runs)
        assert runs[0].digest == runs[1].digest

    def test_control_is_the_same_without_the_teacher(
        self, base: Checkpoint, corpus: Corpus, labels: SoftLabels, tmp_path: Path
    ) -> None:
        """kd_weight 0 and no soft labels are the same control; it reads neither."""
        controls = [
            run(base, corpus, labels, tmp_path / "a", kd_weight=0.0),
            run(base, corpus, None, tmp_path / "b"),
        ]
        assert equal(*controls)
        assert controls[0].manifest.work.key == controls[1].manifest.work.key
        assert controls[0].manifest.work.stage == "control"
        assert set(controls[0].manifest.work.inputs) == {"start", "corpus"}
        assert not equal(controls[0], run(base, corpus, labels, tmp_path / "c"))

    def test_a_small_file_is_repeated(
        self, base: Checkpoint, corpus: Corpus, labels: SoftLabels, tmp_path: Path
    ) -> None:
        """As by as many epochs, and evaluated as often as was asked for."""
        asked = run(base, corpus, labels, tmp_path / "asked", epochs=2)
        an_epoch = log_of(asked)[-1]["step"] // 2
        more = run(base, corpus, labels, tmp_path / "more", epochs=2, min_steps=6 * an_epoch - 1)
        assert equal(more, run(base, corpus, labels, tmp_path / "six", epochs=6))
        assert evaluated(more) == [3 * an_epoch, 6 * an_epoch]
        assert (more.facts["epochs"], asked.facts.get("epochs")) == (6, None)
        written = json.loads((more.path / "training.json").read_text())["settings"]
        assert (written["epochs"], written["min_steps"]) == (6, 6 * an_epoch - 1)

    def test_scores_that_stop_a_small_file_early_are_as_many(
        self, base: Checkpoint, corpus: Corpus, labels: SoftLabels, tmp_path: Path
    ) -> None:
        """An epoch between them is as many passes as it became."""
        stopping = EarlyStoppingSection(interval_epochs=1.0, patience=99)
        changes: dict[str, Any] = {"epochs": 2, "early_stopping": stopping}
        asked = run(base, corpus, labels, tmp_path / "asked", **changes)
        more = run(base, corpus, labels, tmp_path / "more", min_steps=40, **changes)
        assert len(evaluated(more)) == len(evaluated(asked))
        assert evaluated(more)[-1] >= 40 > evaluated(asked)[-1]

    def test_hidden_states_are_learnt_first(
        self, base: Checkpoint, corpus: Corpus, labels: SoftLabels, tmp_path: Path
    ) -> None:
        """The transfer phase lowers the hidden-state loss before the first answer is learnt."""
        student = run(
            base, corpus, labels, tmp_path / "student", teacher=base, hidden_epochs=3.0, epochs=0.5
        )
        log = log_of(student)
        assert [entry["phase"] for entry in log] == sorted(
            (entry["phase"] for entry in log), reverse=True
        )
        errors = [entry["hidden"] for entry in log if entry["phase"] == "hidden"]
        assert errors[-1] < errors[0]
        assert "teacher" in student.manifest.work.inputs

    def test_teacher_is_loaded_for_hidden_states_only(
        self,
        base: Checkpoint,
        corpus: Corpus,
        labels: SoftLabels,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """With soft labels alone, student training never opens the teacher."""
        loaded = []

        def load(folder: Path) -> Any:
            loaded.append(folder)
            return load_model(folder)

        monkeypatch.setattr(module, "load_model", load)
        start = tiny_base(tmp_path / "start", layers=4, seed=0)
        run(start, corpus, labels, tmp_path / "student", teacher=base)
        assert loaded == [start.path]

    def test_explicit_layers_are_kept(
        self, base: Checkpoint, corpus: Corpus, tmp_path: Path
    ) -> None:
        """A list of layers is taken as it is; one that does not exist is refused."""
        kept = run(base, corpus, None, tmp_path / "a", student=StudentSection(layers=(0, 1, 2)))
        assert kept.facts["layers"] == [0, 1, 2]
        for number, layers in enumerate(((0, 9), 9)):
            with pytest.raises(ConfigError):
                run(
                    base,
                    corpus,
                    None,
                    tmp_path / str(number),
                    student=StudentSection(layers=layers),
                )

    def test_a_number_keeps_the_first_layers(
        self, base: Checkpoint, corpus: Corpus, tmp_path: Path
    ) -> None:
        """A number of layers cuts the student off above them, unless ``even`` is asked for."""
        kept = run(base, corpus, None, tmp_path / "a", student=StudentSection(layers=3))
        assert kept.facts["layers"] == [0, 1, 2]

    @pytest.mark.parametrize("trained", [True, False])
    def test_embedding_is_trained_only_when_asked_for(
        self, base: Checkpoint, corpus: Corpus, tmp_path: Path, trained: bool
    ) -> None:
        """The vocabulary matrix stays the teacher's by default; all other weights move."""
        student = run(base, corpus, None, tmp_path / "student", train_embeddings=trained)
        before, after = weights_of(base), weights_of(student)
        name = "model.embed_tokens.weight"
        assert torch.equal(before[name], after[name]) == (not trained)
        name = "model.layers.0.mlp.up_proj.weight"
        assert not torch.equal(before[name], after[name])

    def test_student_learns_from_drawn_labels(
        self, base: Checkpoint, corpus: Corpus, tmp_path: Path
    ) -> None:
        """Labels drawn at random train a student as the likeliest ones do; the KL falls."""
        section = SoftLabelsSection(method="sampled", draws=40)
        drawn = label(base, corpus, section, max_length=512, out_dir=tmp_path / "labels")
        student = run(base, corpus, drawn, tmp_path / "student", epochs=3.0)
        scores = scores_of(student, "kl")
        assert scores[-1] < scores[0]

    def test_labels_of_a_larger_corpus_serve(
        self, base: Checkpoint, corpus: Corpus, labels: SoftLabels, tmp_path: Path
    ) -> None:
        """Every row is found by its content, whatever else is labelled."""
        more = tiny_corpus(tmp_path / "more", train=34)
        larger = label(
            base,
            more,
            SoftLabelsSection(top_k=8),
            max_length=512,
            dtype="float32",
            out_dir=tmp_path / "labels",
        )
        scores = [
            scores_of(run(base, corpus, one, tmp_path / name), "kl")[-1]
            for name, one in (("a", labels), ("b", larger))
        ]
        assert scores[0] == pytest.approx(scores[1], rel=1e-3)

    def test_labels_of_another_corpus_are_refused(
        self, base: Checkpoint, labels: SoftLabels, tmp_path: Path
    ) -> None:
        """Soft labels belong to one corpus."""
        other = tiny_corpus(tmp_path / "corpus", seed=9)
        with pytest.raises(TrainingError, match="another corpus"):
            run(base, other, labels, tmp_path / "student")

    def test_labels_of_another_tokenizer_are_refused(
        self, base: Checkpoint, corpus: Corpus, labels: SoftLabels, tmp_path: Path
    ) -> None:
        """Soft labels belong to one vocabulary and chat template."""

        def with_another_template(path: Path) -> None:
            tokenizer = load_tokenizer(base.path)
            tokenizer.chat_template = tokenizer.chat_template.replace("noise", "words")
            load_model(base.path).save_pretrained(path)
            tokenizer.save_pretrained(path)

        start = commit(Checkpoint, tmp_path / "start", with_another_template)
        with pytest.raises(TrainingError, match="another tokenizer or chat template"):
            run(start, corpus, labels, tmp_path / "student")

    def test_labels_of_fewer_rows_are_refused(
        self, base: Checkpoint, corpus: Corpus, tmp_path: Path
    ) -> None:
        """Rows that were too long when labelling are named, not skipped in silence."""
        short = label(base, corpus, SoftLabelsSection(), max_length=52, out_dir=tmp_path / "labels")
        with pytest.raises(
            TrainingError, match=r"\d+ of 24 rows of the train split have no soft labels"
        ):
            run(base, corpus, short, tmp_path / "student")

    def test_hidden_states_without_a_teacher_are_refused(
        self, base: Checkpoint, corpus: Corpus, labels: SoftLabels, tmp_path: Path
    ) -> None:
        """Asking for hidden states without the teacher is an error before anything is read."""
        with pytest.raises(TrainingError, match="needs the teacher's weights"):
            run(base, corpus, labels, tmp_path / "student", hidden_weight=0.1)
