"""Distillation with the teacher beside the student, and any list of losses."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Literal

import pytest
import torch
from fakes.listening import KilledError, Listener
from fakes.models import build_tiny_checkpoint, build_tiny_model
from fakes.trainable import SYSTEM, commit, log_of, weights_of
from safetensors.torch import load_file

from ollama_bridge.errors import ConfigError, ModelError, TrainingError
from ollama_bridge.models.compute import memory
from ollama_bridge.models.compute.precision import choose_precision
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.models.pruning.vocabulary import trim_tokenizer
from ollama_bridge.recipe.config import DistillSection, StudentSection
from ollama_bridge.storage.artifacts import Checkpoint, Corpus, SoftLabels
from ollama_bridge.train import loop
from ollama_bridge.train.distill import distill
from ollama_bridge.train.live_teacher import LiveTeacher, check_same_tokens, load_live_teacher
from ollama_bridge.train.state import STATE_NAME

# Its width is not the student's, so that projections are trained and have to be resumed.
MIXED = DistillSection.model_validate(
    {
        "epochs": 0.6,
        "batch_tokens": 200,
        "lr": 1e-2,
        "dtype": "bfloat16",
        "checkpoint_interval_s": 1e-9,
        "teacher": "live",
        "losses": [
            {"loss": "cross_entropy", "weight": 0.2},
            {"loss": "kl_reverse", "weight": 0.5, "temperature": 2.0},
            {"loss": "jensen_shannon", "weight": 0.3, "beta": 0.1},
            {"loss": "universal", "weight": 0.1},
            {"loss": "hidden", "weight": 0.5, "layer_map": {"0": 1, "1": 2}},
            {"loss": "attention", "weight": 0.5},
        ],
    }
)
NAMES = {"ce", "kl_reverse", "js", "uld", "hidden", "attention"}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A wider model with other heads and the same tokenizer."""

    def build(path: Path) -> None:
        build_tiny_checkpoint(path, layers=3, seed=7, hidden=96, heads=6, kv_heads=3)

    return commit(Checkpoint, tmp_path_factory.mktemp("teacher") / "teacher", build)


def run(
    start: Checkpoint,
    corpus: Corpus,
    out_dir: Path,
    *,
    settings: DistillSection = MIXED,
    teacher: Checkpoint | None = None,
    labels: SoftLabels | None = None,
    reporter: Listener | None = None,
) -> Checkpoint:
    return distill(
        start,
        corpus,
        labels,
        settings,
        student=StudentSection(layers=2),
        teacher=teacher,
        system=SYSTEM,
        out_dir=out_dir,
        reporter=reporter,
    )


@pytest.mark.usefixtures("no_reference_values")
class TestLive:
    def test_killed_run_with_a_list_of_losses_ends_on_the_same_bits(
        self,
        base: Checkpoint,
        corpus: Corpus,
        teacher: Checkpoint,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Projections are resumed with everything else, and no checkpoint has them."""
        monkeypatch.setattr(loop, "_MAX_SAVING_SHARE", float("inf"))
        whole = run(base, corpus, tmp_path / "whole", teacher=teacher)
        with pytest.raises(KilledError):
            run(base, corpus, tmp_path / "killed", teacher=teacher, reporter=Listener(kill_at=3))
        (state,) = tmp_path.glob(f".killed*/{STATE_NAME}")
        assert any("hidden_projections" in name for name in load_file(state))
        listener = Listener()
        resumed = run(base, corpus, tmp_path / "killed", teacher=teacher, reporter=listener)
        assert listener.resumed_from[-1] == 2
        assert resumed.digest == whole.digest
        assert not any("projection" in name for name in weights_of(resumed))
        last = log_of(whole)[-1]
        assert set(last) >= NAMES
        assert last["validation"]["kl"] > 0
        assert set(whole.manifest.work.inputs) == {"start", "corpus", "teacher"}

    def test_stored_and_live_teacher_agree_where_all_is_stored(
        self, base: Checkpoint, corpus: Corpus, tmp_path: Path
    ) -> None:
        """With k = V, the live teacher gives the loss of the stored one, to float16's rounding."""
        from ollama_bridge.recipe.config import SoftLabelsSection
        from ollama_bridge.teacher.local import label

        section = SoftLabelsSection(top_k=384)
        stored = label(
            base, corpus, section, max_length=512, dtype="float32", out_dir=tmp_path / "labels"
        )
        settings = DistillSection(epochs=0.25, batch_tokens=400, lr=1e-3, dtype="float32")
        logs = []
        for source in ("stored", "live"):
            student = run(
                base,
                corpus,
                tmp_path / source,
                settings=settings.model_copy(update={"teacher": source}),
                teacher=base,
                labels=stored,
            )
            logs.append(log_of(student))
            inputs = {"stored": "labels", "live": "teacher"}[source]
            assert set(student.manifest.work.inputs) == {"start", "corpus", inputs}
        for ours, theirs in zip(*logs, strict=True):
            assert ours["kl"] == pytest.approx(theirs["kl"], rel=1e-3)

    def test_keys_that_say_nothing_are_in_no_key(
        self, base: Checkpoint, corpus: Corpus, labels: SoftLabels, tmp_path: Path
    ) -> None:
        """Work without a list of losses is told apart by what it was told apart by before."""
        settings = DistillSection(epochs=0.25, batch_tokens=400, dtype="float32")
        student = run(base, corpus, tmp_path / "student", settings=settings, labels=labels)
        assert not {"losses", "teacher"} & set(student.manifest.work.settings)

    def test_teacher_with_other_tokens_is_refused(
        self, base: Checkpoint, corpus: Corpus, tmp_path: Path
    ) -> None:
        """A teacher that reads other tokens or another template cannot run on the same batch."""

        def build(path: Path) -> None:
            build_tiny_checkpoint(path, layers=2)
            tokenizer = load_tokenizer(path)
            tokenizer.chat_template = tokenizer.chat_template.replace("noise", "words")
            tokenizer.save_pretrained(path)

        other = commit(Checkpoint, tmp_path / "other", build)
        with pytest.raises(TrainingError, match="another tokenizer or chat template") as info:
            run(base, corpus, tmp_path / "student", teacher=other)
        assert "have the same 384 tokens under the same ids; the chat templates differ" in str(
            info.value
        )

    @pytest.mark.parametrize(
        ("role", "said"), [("bos_token", "prompts begin"), ("eos_token", "turns end")]
    )
    def test_a_teacher_whose_prompts_or_turns_are_written_otherwise_is_refused(
        self, role: str, said: str, corpus: Corpus, tmp_path: Path
    ) -> None:
        """With the same ids and template, which writes BOS or eos by its name."""

        def build(path: Path, token: str) -> None:
            build_tiny_checkpoint(path, layers=2)
            tokenizer = load_tokenizer(path)
            setattr(tokenizer, role, token)
            written = {
                "bos_token": "{{ bos_token }}" + tokenizer.chat_template,
                "eos_token": tokenizer.chat_template.replace("'<|im_end|>'", "eos_token"),
            }
            tokenizer.chat_template = written[role]
            tokenizer.save_pretrained(path)

        student, teacher = (
            commit(Checkpoint, tmp_path / str(number), functools.partial(build, token=token))
            for number, token in enumerate(("<|im_end|>", "<|endoftext|>"))
        )
        with pytest.raises(TrainingError, match="another tokenizer or chat template") as info:
            run(student, corpus, tmp_path / "student", teacher=teacher)
        assert f"{said} with '<|endoftext|>' and with '<|im_end|>'" in str(info.value)
        own = load_tokenizer(student.path)
        trimmed = trim_tokenizer(
            own, ["great food"], also=[own.convert_tokens_to_ids("<|im_end|>")]
        )
        with pytest.raises(TrainingError, match=f"{said} with '<.endoftext.>' and with"):
            check_same_tokens(teacher, own, trimmed)

    def test_a_teacher_that_does_not_fit_beside_its_student_is_told(
        self,
        base: Checkpoint,
        corpus: Corpus,
        teacher: Checkpoint,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Each alone does: what the student took is not free any more."""
        free = iter([10**12, 1000])
        monkeypatch.setattr(memory, "free_bytes", lambda _: next(free))
        with pytest.raises(ModelError, match="holding a teacher beside its student"):
            run(base, corpus, tmp_path / "student", teacher=teacher)

    def test_teacher_with_other_ids_is_told_by_the_first(
        self, base: Checkpoint, corpus: Corpus, tmp_path: Path
    ) -> None:
        """The alignment ladder names what the vocabularies disagree on."""

        def build(path: Path) -> None:
            build_tiny_checkpoint(path, layers=2, vocab_size=370)

        other = commit(Checkpoint, tmp_path / "other", build)
        with pytest.raises(TrainingError, match=r"id 370 is no token to the teacher and '"):
            run(base, corpus, tmp_path / "student", teacher=other)

    def test_missing_layers_are_refused(
        self, base: Checkpoint, corpus: Corpus, teacher: Checkpoint, tmp_path: Path
    ) -> None:
        """A layer map that names a layer that is not there says how many there are."""
        losses = [{"loss": "hidden", "layer_map": {"2": 0}}]
        settings = DistillSection.model_validate({"losses": losses})
        with pytest.raises(ConfigError, match="the student has 2 layers and the teacher 3"):
            run(base, corpus, tmp_path / "student", settings=settings, teacher=teacher)

    def test_states_on_two_sides_of_the_final_norm_are_refused(
        self, base: Checkpoint, corpus: Corpus, teacher: Checkpoint, tmp_path: Path
    ) -> None:
        """The last layer's state is read behind the norm, so it can only reach the last one's."""
        for layer_map in ({"1": 0}, {"0": 2}):
            losses = [{"loss": "hidden", "layer_map": layer_map}]
            settings = DistillSection.model_validate({"losses": losses})
            with pytest.raises(ConfigError, match="behind the final norm") as caught:
                run(base, corpus, tmp_path / "student", settings=settings, teacher=teacher)
            assert "give 1 the teacher's 2" in caught.value.hint

    def test_what_was_not_given_is_refused(
        self, base: Checkpoint, corpus: Corpus, tmp_path: Path
    ) -> None:
        """A list of losses is not quietly cut down to what there is."""
        with pytest.raises(TrainingError, match="needs the teacher's weights"):
            run(base, corpus, tmp_path / "a")
        settings = DistillSection.model_validate({"losses": [{"loss": "kl_reverse"}]})
        with pytest.raises(TrainingError, match="reads stored soft labels"):
            run(base, corpus, tmp_path / "b", settings=settings)


@pytest.mark.parametrize(
    ("seed", "is_trained", "is_shared"), [(0, False, True), (1, False, False), (0, True, False)]
)
def test_what_is_the_same_and_frozen_is_in_memory_once(
    seed: int, is_trained: bool, is_shared: bool
) -> None:
    """The student's embedding serves its teacher, and says the same there."""
    teacher, student = build_tiny_model(seed=0), build_tiny_model(seed=seed)
    student.get_input_embeddings().requires_grad_(is_trained)
    ids = torch.arange(8)[None]
    expected = teacher(input_ids=ids).logits.detach()
    live = LiveTeacher(teacher)
    live.share_frozen(student)
    ends = (teacher.get_input_embeddings(), teacher.get_output_embeddings())
    assert all((end.weight is student.get_input_embeddings().weight) == is_shared for end in ends)
    assert torch.equal(teacher(input_ids=ids).logits, expected)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("is_cut", [True, False])
@pytest.mark.parametrize(("dtype", "is_mapped"), [("bfloat16", False), ("float32", True)])
def test_a_teacher_that_was_cast_does_not_keep_its_file_in_memory(
    dtype: Literal["bfloat16", "float32"], is_mapped: bool, is_cut: bool, teacher: Checkpoint
) -> None:
    """Where nothing is cast it is read from there, which costs nothing that others need."""
    student = load_model(teacher.path) if is_cut else build_tiny_model(seed=1)
    student.requires_grad_(False)
    for parameter in student.parameters():
        parameter.data = parameter.data.clone()
    live = load_live_teacher(
        teacher,
        load_tokenizer(teacher.path),
        choose_precision(dtype),
        student=student,
        attentions=False,
    )
    file = str(teacher.path / "model.safetensors")
    assert (file in Path("/proc/self/maps").read_text(encoding="utf-8")) == is_mapped
    assert (live.model.get_output_embeddings().weight in set(student.parameters())) == is_cut
    assert live.model.base_model.layers[0].mlp.up_proj.weight.dtype == getattr(torch, dtype)
