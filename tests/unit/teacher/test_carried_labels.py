"""Soft labels of a local teacher for a student of another vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.models import build_tiny_checkpoint
from fakes.trainable import LABELS, SYSTEM, commit, corpus_of, sentiment_examples, tiny_corpus

from ollama_bridge.alignment import Side
from ollama_bridge.alignment.positions import HOLE, match_positions
from ollama_bridge.alignment.vocabulary import read_vocabulary
from ollama_bridge.encoding.encode import EncodedExample, encode_split
from ollama_bridge.errors import TrainingError
from ollama_bridge.examples import read_examples
from ollama_bridge.label_store.catalogue import list_stores
from ollama_bridge.label_store.info import read_info, row_key
from ollama_bridge.label_store.labels import SampledTargets, SoftTargets
from ollama_bridge.label_store.reader import LabelReader
from ollama_bridge.models.compute.forward import CausalModel, vocabulary_logits
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.recipe.config import DistillSection, SoftLabelsSection, StudentSection
from ollama_bridge.storage.artifacts import Checkpoint, Corpus, SoftLabels
from ollama_bridge.teacher import carried as carried_module
from ollama_bridge.teacher.carried import Carried
from ollama_bridge.teacher.local import label
from ollama_bridge.train.distill import distill


def checkpoint(folder: Path, vocab_size: int, *, width: int | None = None) -> Checkpoint:
    """A random one; its matrices may be wider than its vocabulary."""

    def fill(path: Path) -> None:
        build_tiny_checkpoint(path, vocab_size=vocab_size, seed=vocab_size)
        if width is not None:
            model = load_model(path)
            with torch.random.fork_rng(devices=[]):
                model.resize_token_embeddings(width, mean_resizing=False)
            model.save_pretrained(path)

    return commit(Checkpoint, folder, fill, name=f"{vocab_size} {width}")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    torch.set_num_threads(1)
    return tiny_corpus(tmp_path_factory.mktemp("corpus") / "corpus")


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return checkpoint(tmp_path_factory.mktemp("narrow") / "narrow", 300)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return checkpoint(tmp_path_factory.mktemp("wide") / "wide", 384)


def assert_teach(start: Checkpoint, corpus: Corpus, labels: SoftLabels, out_dir: Path) -> None:
    """A student can be trained on them, and is held against them."""
    student = distill(
        start,
        corpus,
        labels,
        DistillSection(batch_tokens=400, kd_weight=0.5, dtype="float32"),
        student=StudentSection(),
        system=SYSTEM,
        out_dir=out_dir,
    )
    assert student.facts["validation_kl"] > 0


def by_label(folder: Path) -> Corpus:
    """A corpus whose files are sorted by label."""
    splits = {
        split: sorted(sentiment_examples(count, name=split), key=lambda one: str(one.label))
        for split, count in (("train", 24), ("validation", 8))
    }
    return corpus_of(folder, splits)


def carried(
    teacher: Checkpoint, student: Checkpoint, corpus: Corpus, out_dir: Path, *, top_k: int = 8
) -> SoftLabels:
    return label(
        teacher,
        corpus,
        SoftLabelsSection(top_k=top_k),
        student=student,
        max_length=512,
        dtype="float32",
        out_dir=out_dir,
    )


def encoded(of: Checkpoint, corpus: Corpus, split: str = "train") -> list[EncodedExample]:
    examples = list(read_examples(corpus.split_path(split)))
    tokenizer = load_tokenizer(of.path)
    return list(encode_split(examples, tokenizer, max_length=512, name=split).examples)


def stored(labels: SoftLabels, example: EncodedExample) -> SoftTargets:
    found = LabelReader(labels.path).read([row_key(example.input_ids, example.supervised)])
    assert isinstance(found, SoftTargets)
    return found


def test_a_student_learns_from_a_teacher_of_another_vocabulary(
    narrow: Checkpoint, wide: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    """Each position has what the teacher says there, in the student's words; it trains on it."""
    labels = carried(narrow, wide, corpus, tmp_path / "labels", top_k=384)
    assert labels.facts["alignment"] == "mapped"
    assert read_info(labels.path).vocab_size == 384
    theirs, ours = (
        read_vocabulary(load_tokenizer(one.path), width=size)
        for one, size in ((narrow, 300), (wide, 384))
    )
    model = load_model(narrow.path)
    compared = merged = 0
    for left, right in zip(encoded(narrow, corpus), encoded(wide, corpus), strict=True):
        places = match_positions(left, right, teacher_vocabulary=theirs, student_vocabulary=ours)
        kept = stored(labels, right)
        with torch.inference_mode():
            logprobs = model(torch.from_numpy(left.input_ids).long()[None]).logits[0]
        logprobs = logprobs.log_softmax(-1)[left.targets - 1]
        along = logprobs.gather(1, torch.from_numpy(left.input_ids[left.targets]).long()[:, None])
        total = kept.logprobs.exp().sum(-1) + kept.residual.exp()
        assert torch.allclose(total, torch.ones(len(total)), atol=2e-3)
        for place, target in enumerate(right.input_ids[right.targets].tolist()):
            said = dict(zip(kept.ids[place].tolist(), kept.logprobs[place].tolist(), strict=True))
            first, span = int(places.teacher[place]), int(places.span[place])
            if first == HOLE:
                assert said[target] == 0.0
                continue
            expected = float(along[first : first + span].sum())
            merged += span > 1
            same = theirs.spelled(int(left.input_ids[left.targets[first]])) == ours.spelled(target)
            if span > 1 or same:
                compared += 1
                assert said[target] == pytest.approx(expected, abs=2e-2)
    assert compared
    assert merged
    assert_teach(wide, corpus, labels, tmp_path / "student")


def test_answers_of_all_labels_decide_what_is_in_common(
    narrow: Checkpoint, wide: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of a split that is sorted by label: each label's answer is split by both."""
    corpus = by_label(tmp_path / "corpus")
    shown: list[str] = []

    def watched(teacher: Side, student: Side, texts: Sequence[str], **named: Any) -> Carried:
        shown.extend(texts)
        return Carried(teacher, student, texts, **named)

    monkeypatch.setattr("ollama_bridge.teacher.vocabularies._PROBED_EXAMPLES", 8)
    monkeypatch.setattr("ollama_bridge.teacher.vocabularies.Carried", watched)
    carried(narrow, wide, corpus, tmp_path / "labels")
    assert len(shown) == 8
    assert set(shown) == set(LABELS)


def test_no_position_is_computed_that_nobody_asks_for(
    narrow: Checkpoint,
    wide: Checkpoint,
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the student's predictions one each, and those that a token of several covers."""
    computed = 0

    def counted(model: CausalModel, hidden: torch.Tensor) -> torch.Tensor:
        nonlocal computed
        computed += len(hidden)
        return vocabulary_logits(model, hidden)

    monkeypatch.setattr(carried_module, "vocabulary_logits", counted)
    labels = carried(narrow, wide, corpus, tmp_path / "labels")
    theirs, ours = (
        read_vocabulary(load_tokenizer(one.path), width=size)
        for one, size in ((narrow, 300), (wide, 384))
    )
    wanted = 0
    for split in ("train", "validation"):
        for left, right in zip(
            encoded(narrow, corpus, split), encoded(wide, corpus, split), strict=True
        ):
            places = match_positions(
                left, right, teacher_vocabulary=theirs, student_vocabulary=ours
            )
            spans = places.span[(places.span > 1) & (places.teacher != HOLE)]
            wanted += len(right.targets) + int(spans.sum())
    assert computed == wanted
    assert labels.facts["labelled_rows"] == 32


@pytest.mark.parametrize(("teacher_width", "student_width"), [(448, 416), (416, 448)])
def test_padded_rows_change_nothing(
    wide: Checkpoint, corpus: Corpus, tmp_path: Path, teacher_width: int, student_width: int
) -> None:
    """The same tokens in matrices of other widths: ids stay, none is a padded row."""
    teacher = checkpoint(tmp_path / "teacher", 384, width=teacher_width)
    student = checkpoint(tmp_path / "student", 384, width=student_width)
    labels = carried(teacher, student, corpus, tmp_path / "labels")
    assert labels.facts["alignment"] == "padded"
    assert labels.facts["hard_share"] == 0
    plain = carried(teacher, teacher, corpus, tmp_path / "plain")
    for example in encoded(wide, corpus):
        kept, whole = stored(labels, example), stored(plain, example)
        assert int(kept.ids.max()) < min(teacher_width, student_width)
        for ids, logprobs, all_ids, all_logprobs in zip(
            kept.ids, kept.logprobs, whole.ids, whole.logprobs, strict=True
        ):
            said = dict(zip(all_ids.tolist(), all_logprobs.tolist(), strict=True))
            for id_, value in zip(ids.tolist(), logprobs.tolist(), strict=True):
                if id_ in said:
                    assert value == pytest.approx(said[id_], abs=2e-2)


@pytest.mark.parametrize(("teacher_width", "student_width"), [(448, 416), (416, 448)])
def test_draws_where_only_padded_rows_differ(
    wide: Checkpoint, corpus: Corpus, tmp_path: Path, teacher_width: int, student_width: int
) -> None:
    """Of Qwen's ids: drawn as by a teacher whose matrix ends where the student's does."""
    section = SoftLabelsSection(method="sampled", draws=30, seed=1)
    teacher = checkpoint(tmp_path / "teacher", 384, width=teacher_width)
    student = checkpoint(tmp_path / "student", 384, width=student_width)
    drawn = label(
        teacher,
        corpus,
        section,
        student=student,
        max_length=512,
        dtype="float32",
        out_dir=tmp_path / "labels",
    )
    assert read_info(drawn.path).vocab_size == student_width
    model = load_model(teacher.path)
    reader = LabelReader(drawn.path)
    for example in encoded(wide, corpus)[:6]:
        kept = reader.read([row_key(example.input_ids, example.supervised)])
        assert isinstance(kept, SampledTargets)
        assert int(kept.ids.max()) < min(teacher_width, student_width)
        with torch.inference_mode():
            logits = model(torch.from_numpy(example.input_ids).long()[None]).logits[0]
        logprobs = logits[example.targets - 1, :student_width].log_softmax(-1)
        entropy = -(logprobs.exp() * logprobs).sum(-1)
        assert torch.allclose(kept.entropy, entropy, atol=2e-2)
        share = torch.nn.functional.pad(logprobs.exp(), (0, student_width - logprobs.shape[1]))
        # Spread evenly: of 30 draws a token gets its share, to within one.
        shares = torch.zeros(len(logprobs), student_width).scatter_add(1, kept.ids, kept.weights)
        assert float((shares - share).abs().max()) < 1 / 30 + 1e-3
    assert_teach(student, corpus, drawn, tmp_path / "tuned")


def test_the_share_of_hard_labels_is_that_of_all_rows(
    narrow: Checkpoint, wide: Checkpoint, tmp_path: Path
) -> None:
    """Also where most of them, or all, had labels of an earlier run."""
    shares = {}
    for name, train in (("few", 12), ("more", 34), ("again", 34)):
        labels = label(
            wide,
            tiny_corpus(tmp_path / f"corpus-{name}", train=train),
            SoftLabelsSection(top_k=8),
            student=narrow,
            max_length=512,
            dtype="float32",
            out_dir=tmp_path / name,
            store_dir=tmp_path / "stores",
        )
        shares[name] = labels.facts["hard_share"]
    assert labels.facts["labelled_rows"] == 0
    whole = carried(wide, narrow, tiny_corpus(tmp_path / "corpus", train=34), tmp_path / "whole")
    assert shares["more"] == shares["again"] == whole.facts["hard_share"]
    assert 0 < shares["more"] != shares["few"]


def test_labels_of_other_rules_are_not_taken_for_those_of_today(
    narrow: Checkpoint,
    wide: Checkpoint,
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows that a version carried over otherwise stay where they are, and new ones are made."""
    made = {}
    for name, version in (("before", 0), ("now", 1), ("again", 1)):
        monkeypatch.setattr(carried_module, "_VERSION", version)
        labels = label(
            narrow,
            corpus,
            SoftLabelsSection(top_k=8),
            student=wide,
            max_length=512,
            dtype="float32",
            out_dir=tmp_path / name,
            store_dir=tmp_path / "stores",
        )
        made[name] = labels.facts["labelled_rows"]
        assert read_info(labels.path).carried == f"mapped/{version}"
    assert made == {"before": 32, "now": 32, "again": 0}
    assert len(list_stores(tmp_path / "stores")) == 2


def test_vocabularies_without_anything_in_common_are_refused(
    wide: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    """Words against letters: text alone is left, and it says so before the teacher is loaded."""
    letters = checkpoint(tmp_path / "letters", 259)
    with pytest.raises(TrainingError, match="text alone") as caught:
        carried(wide, letters, corpus, tmp_path / "labels")
    assert caught.value.hint is not None
    assert not (tmp_path / "labels").exists()
    with pytest.raises(TrainingError, match="drawn at random"):
        label(
            wide,
            corpus,
            SoftLabelsSection(method="sampled"),
            student=letters,
            max_length=512,
            out_dir=tmp_path / "sampled",
        )
