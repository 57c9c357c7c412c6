"""A live teacher that reads its own tokens: losses of two vocabularies where the texts agree."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.listening import KilledError, Listener
from fakes.models import build_tiny_checkpoint, build_tiny_model
from fakes.trainable import SYSTEM, commit, log_of, scores_of, sentiment_examples
from fakes.turn_ends import build_speaker

from ollama_bridge.alignment import Side, align, read_vocabulary
from ollama_bridge.alignment.classes import CommonClasses, common_classes
from ollama_bridge.encoding.batches import Batches
from ollama_bridge.encoding.encode import EncodedExample, encode_split
from ollama_bridge.errors import TrainingError
from ollama_bridge.models.load import load_tokenizer
from ollama_bridge.recipe.config import DistillSection, StudentSection
from ollama_bridge.recipe.losses import HybridUniversalLoss, UniversalLoss
from ollama_bridge.storage.artifacts import Checkpoint, Corpus
from ollama_bridge.train import loop
from ollama_bridge.train.distill import distill
from ollama_bridge.train.live_teacher import LiveTeacher
from ollama_bridge.train.losses import chunked
from ollama_bridge.train.losses.hybrid import MatchedTokens
from ollama_bridge.train.losses.objective import Objective
from ollama_bridge.train.losses.signals import MatchedSignal
from ollama_bridge.train.student_check import check_student
from ollama_bridge.train.teacher_rows import TeacherRows, check_teacher_rows

SIZE, THEIR_SIZE = 384, 300
UNIVERSAL = DistillSection.model_validate(
    {
        "epochs": 6,
        "batch_tokens": 200,
        "lr": 1e-2,
        "dtype": "float32",
        "checkpoint_interval_s": 1e-9,
        "teacher": "live",
        "losses": [{"loss": "cross_entropy", "weight": 0.05}, {"loss": "universal"}],
    }
)
HYBRID = DistillSection.model_validate(
    {
        **UNIVERSAL.model_dump(exclude={"hidden_weight", "kd_weight", "temperature"}),
        "losses": [{"loss": "cross_entropy", "weight": 0.05}, {"loss": "hybrid_universal"}],
    }
)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A teacher with fewer tokens than its student, of another width and depth."""

    def build(path: Path) -> None:
        build_tiny_checkpoint(path, vocab_size=THEIR_SIZE, layers=3, seed=7, hidden=96, heads=6)

    return commit(Checkpoint, tmp_path_factory.mktemp("narrow") / "narrow", build)


def run(
    start: Checkpoint,
    corpus: Corpus,
    teacher: Checkpoint,
    out_dir: Path,
    *,
    settings: DistillSection = UNIVERSAL,
    student: StudentSection | None = None,
    reporter: Listener | None = None,
) -> Checkpoint:
    return distill(
        start,
        corpus,
        None,
        settings,
        student=student or StudentSection(layers=2),
        teacher=teacher,
        system=SYSTEM,
        out_dir=out_dir,
        reporter=reporter,
    )


def encoded(tokenizer: Any) -> list[EncodedExample]:
    split = encode_split(
        sentiment_examples(6, name="train"), tokenizer, max_length=512, name="train"
    )
    return list(split.examples)


def begin_at(example: EncodedExample, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Where its supervised tokens begin and end, in letters of an answer in ASCII."""
    *said, end = example.input_ids[example.targets].tolist()
    assert end == tokenizer.eos_token_id
    marks = [0, *itertools.accumulate(len(tokenizer.decode([token])) for token in said)]
    return marks, [*marks[1:], marks[-1] + 1]


def tokens_of(classes: CommonClasses) -> MatchedTokens:
    return MatchedTokens.of(torch.from_numpy(classes.student), torch.from_numpy(classes.teacher))


def naive_universal(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The sum of differences of sorted probabilities of one position, token by token."""
    q, p = (torch.softmax(logits, -1).sort(descending=True).values for logits in (student, teacher))
    pairs = itertools.zip_longest(q.unbind(), p.detach().unbind(), fillvalue=torch.zeros(()))
    return torch.stack([(mine - theirs).abs() for mine, theirs in pairs]).sum()


def naive_hybrid(
    student: torch.Tensor, teacher: torch.Tensor, classes: CommonClasses
) -> torch.Tensor:
    """The KL over classes of one position, and the sorted differences of what has none."""
    q, p = torch.softmax(student, -1), torch.softmax(teacher.detach(), -1)
    ours, theirs = torch.from_numpy(classes.student), torch.from_numpy(classes.teacher)
    terms = []
    for number in range(int(ours.max()) + 1):
        mine, other = q[ours == number].sum(), p[theirs == number].sum()
        terms.append(other * (other / mine).log() - other + mine)
    q, p = (share[one < 0].sort(descending=True).values for share, one in ((q, ours), (p, theirs)))
    pairs = itertools.zip_longest(q.unbind(), p.unbind(), fillvalue=torch.zeros(()))
    return torch.stack([*terms, *((mine - other).abs() for mine, other in pairs)]).sum()


@pytest.mark.parametrize("loss", [UniversalLoss(), HybridUniversalLoss()])
def test_value_and_gradient_are_those_of_the_matched_positions(
    loss: UniversalLoss | HybridUniversalLoss, narrow: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against float64, row by row without padding or prefix, and places counted by letters.

    A batch in two parts, each in chunks of a few positions, has the gradient of the whole.
    """
    monkeypatch.setattr(chunked, "_MIN_POSITIONS", 4)
    monkeypatch.setattr(chunked, "_LOGITS_PER_CHUNK", 0)
    ours_tokenizer = load_tokenizer(
        build_tiny_checkpoint(narrow.path.parent / "ours", vocab_size=SIZE)
    )
    theirs_tokenizer = load_tokenizer(narrow.path)
    ours, theirs = encoded(ours_tokenizer), encoded(theirs_tokenizer)
    student = build_tiny_model(vocab_size=SIZE)
    teacher = build_tiny_model(vocab_size=THEIR_SIZE, seed=1)
    left = Side(read_vocabulary(theirs_tokenizer, width=THEIR_SIZE), theirs_tokenizer)
    right = Side(read_vocabulary(ours_tokenizer, width=SIZE), ours_tokenizer)
    classes = common_classes(left, right, align(left, right, ["negative"]))
    rows = TeacherRows(
        theirs,
        ours,
        teacher=left.vocabulary,
        student=right.vocabulary,
        tokens=tokens_of(classes),
        pad_id=0,
    )
    objective = Objective(student, [loss], teacher=LiveTeacher(teacher), live=True, rows=rows)
    batches = Batches(ours, batch_tokens=10_000, pad_id=0)
    (members,) = batches.sorted()
    whole = objective(batches.collate(members), None)
    for part in (members[:2], members[2:]):
        objective(batches.collate(part, whole=members), None).total.backward()  # type: ignore[no-untyped-call]
    found = {name: value.grad for name, value in student.named_parameters()}

    exact, their_exact = build_tiny_model(vocab_size=SIZE).double(), teacher.double()
    values, unmatched = [], 0
    for mine, other in zip(ours, theirs, strict=True):
        logits, their_logits = (
            model(torch.from_numpy(one.input_ids).long()[None]).logits[0, one.targets - 1]
            for model, one in ((exact, mine), (their_exact, other))
        )
        begins, ends = begin_at(mine, ours_tokenizer)
        their_begins, their_ends = begin_at(other, theirs_tokenizer)
        for place, (begin, end) in enumerate(zip(begins, ends, strict=True)):
            place_there = their_begins.index(begin) if begin in their_begins else None
            if place_there is None or (end not in their_ends and their_ends[place_there] <= end):
                unmatched += 1
                continue
            pair = logits[place], their_logits[place_there]
            values.append(
                naive_universal(*pair)
                if isinstance(loss, UniversalLoss)
                else naive_hybrid(*pair, classes)
            )
    positions = len(values) + unmatched
    assert (rows.positions, rows.matched) == (positions, len(values))
    assert values
    total = torch.stack(values).sum() / positions
    assert whole.parts[loss.short_name].item() == pytest.approx(total.item(), rel=1e-5)
    total.backward()  # type: ignore[no-untyped-call]
    for name, parameter in exact.named_parameters():
        assert parameter.grad is not None
        slope = found[name]
        assert slope is not None
        apart = (slope.double() - parameter.grad).norm() / parameter.grad.norm()
        assert float(apart) < 1e-3, name


@pytest.mark.parametrize("width", [SIZE, 0])
def test_positions_that_have_no_counterpart_give_hard_labels_only(width: int) -> None:
    """There the losses are 0 and move nothing, also where a chunk has no others."""
    teacher = LiveTeacher(build_tiny_model(vocab_size=THEIR_SIZE, seed=1))
    hidden = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    logits = torch.randn(4, SIZE, generator=torch.Generator().manual_seed(1), requires_grad=True)
    targets = torch.arange(4)
    tokens = MatchedTokens.of(torch.arange(width) // 2, torch.arange(width // 2))
    signal = MatchedSignal(teacher, hidden, torch.tensor([2, -1, -1, 0]), tokens, targets)
    some, none = signal.beside(logits, slice(0, 4)), signal.beside(logits[1:3], slice(1, 3))
    for found, nothing in (
        (some.universal(temperature=2.0), none.universal(temperature=2.0)),
        (
            some.hybrid_universal(temperature=2.0, unmatched_weight=0.5),
            none.hybrid_universal(temperature=2.0, unmatched_weight=0.5),
        ),
    ):
        (slope,) = torch.autograd.grad(found.sum(), logits, retain_graph=True)
        assert (found > 0).tolist() == [True, False, False, True]
        assert (slope != 0).any(-1).tolist() == [True, False, False, True]
        (slope,) = torch.autograd.grad(nothing.sum(), logits, retain_graph=True)
        assert not slope.any()
    assert (none.cross_entropy() > 0).all()
    with pytest.raises(TrainingError, match="hybrid_universal and universal compare them"):
        none.kl_forward(temperature=1.0)


@pytest.mark.usefixtures("no_reference_values")
class TestDistill:
    @pytest.mark.parametrize(("settings", "name"), [(UNIVERSAL, "uld"), (HYBRID, "hybrid_uld")])
    def test_a_student_comes_nearer_to_a_teacher_of_other_tokens(
        self,
        settings: DistillSection,
        name: str,
        base: Checkpoint,
        corpus: Corpus,
        narrow: Checkpoint,
        tmp_path: Path,
    ) -> None:
        """By validation; the rung and the share are said once, and a trimmed student learns too."""
        listener = Listener()
        student = run(
            base, corpus, narrow, tmp_path / "student", settings=settings, reporter=listener
        )
        first, *_, last = scores_of(student, name)
        assert last < 0.9 * first
        assert {"ce", name} <= set(log_of(student)[-1])
        assert "kl" not in log_of(student)[-1]["validation"]
        (said,) = [note for note in listener.notes if "the vocabularies differ" in note]
        assert "tokens are mapped by their text" in said
        assert "% of the tokens to be learnt, the others have hard labels only" in said
        trimmed = StudentSection(layers=2, vocabulary="corpus")
        small = run(base, corpus, narrow, tmp_path / "small", settings=settings, student=trimmed)
        first, *_, last = scores_of(small, name)
        assert last < first

    def test_a_teacher_of_another_chat_template_reads_its_own(
        self, base: Checkpoint, corpus: Corpus, tmp_path: Path
    ) -> None:
        """Its tokens are the student's, but not what stands around the answers."""

        def build(path: Path) -> None:
            build_tiny_checkpoint(path, layers=3, seed=7)
            tokenizer = load_tokenizer(path)
            tokenizer.chat_template = "{{ 'Now: ' }}" + tokenizer.chat_template
            tokenizer.save_pretrained(path)

        other = commit(Checkpoint, tmp_path / "other", build)
        listener = Listener()
        settings = HYBRID.model_copy(update={"epochs": 0.25})
        run(base, corpus, other, tmp_path / "student", settings=settings, reporter=listener)
        (said,) = [note for note in listener.notes if "both distributions" in note]
        assert "the same 384 tokens under the same ids" in said
        assert "compared at 100.0% of the tokens" in said

    def test_a_killed_run_ends_on_the_same_bits(
        self,
        base: Checkpoint,
        corpus: Corpus,
        narrow: Checkpoint,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """What the teacher reads is no part of the state."""
        monkeypatch.setattr(loop, "_MAX_SAVING_SHARE", float("inf"))
        settings = HYBRID.model_copy(update={"epochs": 0.6})
        whole = run(base, corpus, narrow, tmp_path / "whole", settings=settings)
        killed = tmp_path / "killed"
        with pytest.raises(KilledError):
            run(base, corpus, narrow, killed, settings=settings, reporter=Listener(kill_at=3))
        listener = Listener()
        resumed = run(base, corpus, narrow, killed, settings=settings, reporter=listener)
        assert listener.resumed_from[-1] == 2
        assert resumed.digest == whole.digest

    @pytest.mark.parametrize(
        "changes",
        [
            {"losses": [{"loss": "cross_entropy"}, {"loss": "kl_reverse"}]},
            {"losses": [{"loss": "cross_entropy"}, {"loss": "universal"}, {"loss": "hidden"}]},
            {"losses": [{"loss": "universal"}]},
            {"losses": [{"loss": "hybrid_universal"}]},
            {"on_policy": {"max_new_tokens": 8}},
            {"hidden_epochs": 1.0},
        ],
    )
    def test_what_needs_the_same_tokens_is_refused(
        self,
        changes: dict[str, object],
        base: Checkpoint,
        corpus: Corpus,
        narrow: Checkpoint,
        tmp_path: Path,
    ) -> None:
        """With the losses that do not, in a command; a plan is told before it is built."""
        said = UNIVERSAL.model_dump(exclude={"hidden_weight", "kd_weight", "temperature"})
        settings = DistillSection.model_validate(said | changes)
        for attempt in (
            lambda: run(base, corpus, narrow, tmp_path / "student", settings=settings),
            lambda: check_student(StudentSection(layers=2), settings, base, narrow),
        ):
            with pytest.raises(TrainingError, match="another tokenizer or chat template") as caught:
                attempt()
            assert "'distill.losses=[{loss: cross_entropy}, {loss: hybrid_universal}]'" in str(
                caught.value.hint
            )
        for settings in (UNIVERSAL, HYBRID):
            check_student(StudentSection(layers=2), settings, base, narrow)

    def test_of_the_same_tokens_the_hybrid_loss_is_refused(
        self, base: Checkpoint, corpus: Corpus, tmp_path: Path
    ) -> None:
        """It would be another by its name; ULD, which compares shapes, may be wanted there too."""
        for attempt in (
            lambda: run(base, corpus, base, tmp_path / "student", settings=HYBRID),
            lambda: check_student(StudentSection(layers=2), HYBRID, base, base),
        ):
            with pytest.raises(TrainingError, match="it would be kl_forward") as caught:
                attempt()
            assert "{loss: kl_forward}" in str(caught.value.hint)
        check_student(StudentSection(layers=2), UNIVERSAL, base, base)

    def test_a_teacher_that_says_nothing_of_the_answers_is_refused(
        self, base: Checkpoint, corpus: Corpus, tmp_path: Path
    ) -> None:
        """Its template writes other answers, or its tokens are other ones altogether."""
        shouting = commit(
            Checkpoint, tmp_path / "shouting", lambda path: build_speaker("shouting", path)
        )
        letters = commit(
            Checkpoint,
            tmp_path / "letters",
            lambda path: build_tiny_checkpoint(path, vocab_size=259),
        )
        for start, teacher, message in (
            (base, shouting, "none of the [0-9]+ tokens to be learnt has a distribution"),
            (letters, base, "text alone"),
        ):
            with pytest.raises(TrainingError, match=message) as caught:
                run(start, corpus, teacher, tmp_path / "student")
            assert "distill.kd_weight=0" in str(caught.value.hint)
            with pytest.raises(TrainingError, match=message):
                check_teacher_rows(teacher, start, corpus, UNIVERSAL)
        short = UNIVERSAL.model_copy(update={"max_length": 16})
        check_teacher_rows(shouting, base, corpus, short)
        check_teacher_rows(base, base, corpus, UNIVERSAL)
