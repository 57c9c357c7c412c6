"""Soft labels from a daemon: what came with answers, what is asked for, and the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.daemon import Asked, FakeDaemon, Fault, Turn
from fakes.distributions import stored_kl
from fakes.listening import Listener
from fakes.models import build_tiny_tokenizer
from fakes.trainable import SPLITS, corpus_of, tiny_base

from ollama_bridge.client import Reply
from ollama_bridge.client.jobs.records import reply_from_record
from ollama_bridge.encoding.encode import encode
from ollama_bridge.errors import DaemonError, ModelNotFoundError
from ollama_bridge.examples import Example, Message, read_examples, write_examples
from ollama_bridge.label_store.info import row_key
from ollama_bridge.label_store.labels import SoftTargets
from ollama_bridge.label_store.reader import LabelReader
from ollama_bridge.recipe.config import SoftLabelsSection, TeacherSection
from ollama_bridge.storage.artifacts import Checkpoint, Corpus, SoftLabels
from ollama_bridge.teacher import scoring, turns
from ollama_bridge.teacher.alignment import Distribution
from ollama_bridge.teacher.daemon import write_answers
from ollama_bridge.teacher.daemon_labels import label_by_daemon
from ollama_bridge.teacher.named_targets import soft_targets
from ollama_bridge.teacher.respondent import in_daemons
from ollama_bridge.train.losses.vocabulary import cross_entropy

TOKENIZER = build_tiny_tokenizer()
END = TOKENIZER.eos_token_id
ANSWER = "The food was great."
GOLD = "not good"


def pieces(text: str) -> list[str]:
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    return [TOKENIZER.decode([token]) for token in ids]


def reports(text: str, logprob: float) -> dict[str, object]:
    rivals = [(text, logprob), ("The", -4.0), ("", -5.0)]
    top = [{"token": token, "logprob": value} for token, value in rivals]
    return {"token": text, "logprob": logprob, "top_logprobs": top}


def given(asked: Asked) -> tuple[str, str]:
    """The answer that a raw prompt begins, and how much of it stands there."""
    number, prefix = asked.json["prompt"][len("[user]q") :][:1], asked.json["prompt"][8:]
    return (GOLD if number == "g" else ANSWER), prefix


def teaches(asked: Asked) -> Turn:
    """Writes the answer token by token; says of a raw prompt what comes next."""
    if asked.path == "/api/chat":
        words = pieces(ANSWER)
        return Turn(pieces=words, logprobs=[[reports(word, -0.5)] for word in words])
    answer, prefix = given(asked)
    said = pieces(answer)[len(pieces(prefix)) :][:1] or [""]
    return Turn(
        pieces=said,
        logprobs=[[reports(said[0], -0.25)]],
        prompt_tokens=5 + len(pieces(prefix)),
    )


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with FakeDaemon(script=teaches) as running:
        yield running


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_base(tmp_path_factory.mktemp("student") / "base", layers=1)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Open examples, and one with an answer in each split."""
    gold = (Message("user", "qg"), Message("assistant", GOLD))
    splits = {}
    for split, count in zip(SPLITS, (3, 1, 1), strict=True):
        rows = [Example(f"{split}{n}", (Message("user", f"q{n}"),), "g") for n in range(count)]
        splits[split] = [*rows, Example(f"{split}g", gold, "g")]
    return corpus_of(tmp_path / "corpus", splits)


Label = Callable[..., SoftLabels]


@pytest.fixture
def label(corpus: Corpus, daemon: FakeDaemon, student: Checkpoint, tmp_path: Path) -> Label:
    def run(score: str, *, name: str = "labels", reporter: object = None) -> SoftLabels:
        teacher = TeacherSection(
            model="ollama:m", answers="daemon", soft_labels="daemon", score=score, in_flight=1
        )
        respondent = in_daemons("m", [daemon.host])
        answered = write_answers(
            corpus,
            teacher,
            respondent=respondent,
            out_dir=tmp_path / f"answers-{score}",
        )
        daemon.asked.clear()
        return label_by_daemon(
            answered,
            student,
            SoftLabelsSection(top_k=4),
            teacher,
            respondent=respondent,
            max_length=128,
            out_dir=tmp_path / name,
            reporter=reporter,
        )

    return run


@pytest.mark.parametrize("place", [0, 1])
def test_a_row_that_nobody_answered_is_left_out(
    corpus: Corpus, daemon: FakeDaemon, student: Checkpoint, tmp_path: Path, place: int
) -> None:
    """Wherever it stands in the split, as in training."""
    path = corpus.split_path("train")
    for split in SPLITS:
        (gold,) = [one for one in read_examples(corpus.split_path(split)) if one.is_answered]
        write_examples(corpus.split_path(split), [gold])
    rows = list(read_examples(path))
    rows.insert(place, Example("open", (Message("user", "q0"),), "g"))
    write_examples(path, rows)
    labels = label_by_daemon(
        corpus,
        student,
        SoftLabelsSection(top_k=4),
        TeacherSection(model="ollama:m", soft_labels="daemon", score="asked", in_flight=1),
        respondent=in_daemons("m", [daemon.host]),
        max_length=128,
        out_dir=tmp_path / "labels",
    )
    assert labels.facts["train_examples"] == 1


def read(labels: SoftLabels, rows: list[int]) -> SoftTargets:
    """What the store has of rows of the training split: three written ones, and the given."""
    keys = []
    for row in rows:
        asked, answer = (f"q{row}", ANSWER) if row < 3 else ("qg", GOLD)
        messages = (Message("user", asked), Message("assistant", answer))
        encoded = encode(Example("x", messages, "g"), TOKENIZER)
        keys.append(row_key(encoded.input_ids, encoded.supervised))
    found = LabelReader(labels.path).read(keys)
    assert isinstance(found, SoftTargets)
    return found


def targets_of(text: str) -> list[int]:
    return [*TOKENIZER(text, add_special_tokens=False)["input_ids"], END]


def test_written_answers_bring_their_distributions(label: Label, daemon: FakeDaemon) -> None:
    """No request more; the end token and given answers are hard labels."""
    labels = label("generated")
    assert daemon.questions == []
    found = read(labels, [0])
    wanted = targets_of(ANSWER)
    assert found.ids[:, 0].tolist() == wanted
    assert found.logprobs[:-1, 0].tolist() == [-0.5] * (len(wanted) - 1)
    assert found.logprobs[-1].tolist()[0] == 0.0
    assert found.residual[-1] == -math.inf
    the = TOKENIZER.convert_tokens_to_ids("The")
    assert found.ids[1, 1] == the
    assert found.logprobs[1, 1] == pytest.approx(-4.0)
    written, given = len(wanted) - 1, len(targets_of(GOLD))
    assert labels.facts["tokens_by_origin"]["train"] == {
        "generated": 3 * written,
        "hard": 3 + given,
    }


@pytest.mark.parametrize(("score", "times"), [("generated", 1), ("both", 2)])
def test_a_reply_is_read_when_it_is_needed(
    label: Label, score: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for its labels, and once before that where it decides what is asked."""
    read_replies = 0

    def counted(record: dict[str, object]) -> Reply:
        nonlocal read_replies
        read_replies += 1
        return reply_from_record(record)

    monkeypatch.setattr(turns, "reply_from_record", counted)
    label(score)
    assert read_replies == times * 4


def test_answers_are_asked_about_token_by_token(label: Label, daemon: FakeDaemon) -> None:
    """Given and written ones, the end token too; equal passages of two splits once."""
    labels = label("asked")
    for row, text in ((3, GOLD), (0, ANSWER)):
        found = read(labels, [row])
        assert found.ids[:, 0].tolist() == targets_of(text)
        assert found.logprobs[:, 0].tolist() == [-0.25] * len(targets_of(text))
    assert len(daemon.questions) == len(targets_of(GOLD)) + 3 * len(targets_of(ANSWER))
    assert all(body["raw"] for body in daemon.questions)
    assert all(body["options"]["num_predict"] == 1 for body in daemon.questions)
    assert all(body["options"]["stop"] == [] for body in daemon.questions)
    assert labels.facts["hard_share"] == 0.0


def test_both_leaves_no_hole(label: Label) -> None:
    """What did not come along is asked for: the end of written answers, and given answers."""
    labels = label("both")
    assert labels.facts["hard_share"] == 0.0
    found = read(labels, [0])
    assert found.logprobs[:, 0].tolist() == [-0.5] * (len(targets_of(ANSWER)) - 1) + [-0.25]
    assert found.ids[-1, 0] == END


def test_other_tokens_of_the_teacher_are_seen_by_their_count(
    label: Label, daemon: FakeDaemon
) -> None:
    """Where the prompt grows by two tokens, the student's token is not the teacher's."""

    def cuts_otherwise(asked: Asked) -> Turn:
        turn = teaches(asked)
        if asked.path == "/api/chat":
            return turn
        longer = len(pieces(given(asked)[1])) >= 2
        return Turn(
            pieces=turn.pieces, logprobs=turn.logprobs, prompt_tokens=turn.prompt_tokens + longer
        )

    daemon.script = cuts_otherwise
    labels = label("asked")
    found = read(labels, [3])
    certain = (found.residual == -math.inf).tolist()
    assert certain == [number == 1 for number in range(len(targets_of(GOLD)))]


def test_a_hole_inside_a_token_of_the_teacher_stays_one(label: Label, daemon: FakeDaemon) -> None:
    """Two tokens of the student are one of the teacher's, and got lost: half of it is no place."""
    words = pieces(ANSWER)
    joined = len("".join(words[:2]))

    def writes(asked: Asked) -> Turn:
        turn = teaches(asked)
        if asked.path == "/api/chat":
            lost: list[list[dict[str, object]]] = [[], []]
            return Turn(pieces=words, logprobs=lost + [[reports(one, -0.5)] for one in words[2:]])
        answer, prefix = given(asked)
        shorter = answer == ANSWER and len(prefix) >= joined
        return Turn(
            pieces=turn.pieces, logprobs=turn.logprobs, prompt_tokens=turn.prompt_tokens - shorter
        )

    daemon.script = writes
    found = read(label("both"), [0])
    certain = (found.residual == -math.inf).tolist()
    assert certain == [number == 1 for number in range(len(targets_of(ANSWER)))]
    assert found.logprobs[0, 0] == -0.25
    assert (found.logprobs[2:-1, 0] == -0.5).all()


@pytest.mark.parametrize("part", [1, 3])
def test_a_kill_loses_a_part_of_a_passage(
    label: Label, daemon: FakeDaemon, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model goes away in mid-stage: the next run asks for the rest, and the part under way."""
    monkeypatch.setattr(scoring, "_QUESTIONS_A_PART", part)
    whole = label("asked", name="whole")
    calls = len(daemon.questions)
    answered = calls // 2
    daemon.asked.clear()

    def leaves(asked: Asked) -> Turn:
        if len(daemon.questions) > answered:
            return Turn(refusal=(404, "model 'm' not found"))
        return teaches(asked)

    daemon.script = leaves
    with pytest.raises(ModelNotFoundError):
        label("asked")
    daemon.script = teaches
    assert label("asked").digest == whole.digest
    assert 0 <= len(daemon.questions) - (calls - answered) < part


def test_how_a_passage_is_parted_changes_nothing(
    label: Label, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompt's growth is seen over the end of a part, too."""
    whole = label("asked", name="whole")
    monkeypatch.setattr(scoring, "_QUESTIONS_A_PART", 1)
    assert label("asked", name="parts").digest == whole.digest


def test_one_that_crashed_is_asked_one_token_first(label: Label, daemon: FakeDaemon) -> None:
    """Not a whole part of a passage again."""
    crashed: list[str] = []

    def crashes(asked: Asked) -> Turn:
        if not crashed and "raw" in asked.json and len(daemon.questions) > 2:
            crashed.append(asked.json["prompt"])
            return Turn(fault=Fault.ERROR_LINE)
        return teaches(asked)

    daemon.script = crashes
    assert label("asked").facts["hard_share"] == 0.0
    prompts = [body["prompt"] for body in daemon.questions]
    assert prompts[prompts.index(crashed[0]) + 1] == "1"


def test_a_model_that_is_replaced_meanwhile_labels_nothing(
    label: Label, daemon: FakeDaemon, tmp_path: Path
) -> None:
    """Its distributions would stand under the name of the one before."""

    def replaced(asked: Asked) -> Turn:
        if asked.path == "/api/generate":
            daemon.models["m:latest"] = "e" * 64
        return teaches(asked)

    daemon.script = replaced
    with pytest.raises(ModelNotFoundError, match="no longer the model"):
        label("asked")
    assert not (tmp_path / "labels").exists()


def test_what_was_asked_serves_other_labels(label: Label, daemon: FakeDaemon) -> None:
    """Its log lies beside the artefact: given answers are not asked about a second time."""
    asked = label("asked")
    label("both")
    assert len(daemon.questions) == 3  # the ends of the written answers
    assert label("asked").digest == asked.digest
    assert daemon.questions == []


def test_the_time_it_takes_is_told_before(label: Label) -> None:
    """In minutes and milliseconds a token."""
    listener = Listener()
    label("both", reporter=listener)
    assert any("ms a token, 1 daemon(s)" in note for note in listener.notes)
    assert any("0.0% of" in note for note in listener.notes)


def test_a_teacher_that_tells_nothing_is_an_error(label: Label, daemon: FakeDaemon) -> None:
    """Nothing that the student has a name for."""
    odd = {"token": "龘", "logprob": -0.1, "top_logprobs": [{"token": "龘", "logprob": -0.1}]}

    def strange(asked: Asked) -> Turn:
        words = pieces(ANSWER)
        return Turn(pieces=words, logprobs=[[odd] for _ in words])

    daemon.script = strange
    with pytest.raises(DaemonError, match="gave no distribution for any of"):
        label("generated")


def test_answers_that_were_written_alone_are_told_from_a_teacher_that_tells_nothing(
    corpus: Corpus, daemon: FakeDaemon, student: Checkpoint, tmp_path: Path
) -> None:
    """The stage before was run without the setting that this one has."""
    asked = TeacherSection(model="ollama:m", answers="daemon", soft_labels="daemon", in_flight=1)
    respondent = in_daemons("m", [daemon.host])
    alone = asked.model_copy(update={"soft_labels": "local"})
    answered = write_answers(corpus, alone, respondent=respondent, out_dir=tmp_path / "answers")
    with pytest.raises(DaemonError, match="gave no distribution for any of") as caught:
        label_by_daemon(
            answered,
            student,
            SoftLabelsSection(top_k=4),
            asked.model_copy(update={"score": "generated"}),
            respondent=respondent,
            max_length=128,
            out_dir=tmp_path / "labels",
        )
    assert "run `answers`, too, with --set teacher.soft_labels=daemon" in str(caught.value.hint)


def test_a_hard_label_costs_the_cross_entropy() -> None:
    """Whatever fills up its list, value and gradient are those of the hard label."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 50, generator=generator, dtype=torch.float64).requires_grad_()
    tokens = [49, 7, 0]
    soft = soft_targets([None] * 3, tokens, top_k=4, vocab_size=50)
    assert all(len(set(row)) == 4 for row in soft.ids.tolist())
    kl = stored_kl(logits, soft)
    hard = cross_entropy(logits, torch.tensor(tokens))
    torch.testing.assert_close(kl, hard, rtol=1e-6, atol=1e-6, check_dtype=False)
    (kl_gradient,) = torch.autograd.grad(kl.sum(), logits, retain_graph=True)
    (hard_gradient,) = torch.autograd.grad(hard.sum(), logits)
    torch.testing.assert_close(kl_gradient, hard_gradient, rtol=1e-6, atol=1e-6)


def test_short_lists_are_filled_with_nothing() -> None:
    """What fills up has probability 0."""
    one = Distribution((5,), (-0.5,), math.log(1 - math.exp(-0.5)))
    soft = soft_targets([one], [5], top_k=3, vocab_size=9)
    assert soft.ids.tolist() == [[5, 8, 7]]
    assert np.isclose(soft.logprobs.exp().sum() + soft.residual.exp().sum(), 1.0)


def test_the_positions_are_those_of_training(label: Label, tmp_path: Path) -> None:
    """As many as the encoded example has, for every row."""
    reader = LabelReader(label("generated").path)
    assert reader.info.teacher == "d" * 64
    for split in ("train", "validation"):
        for example in read_examples(tmp_path / "answers-generated" / f"{split}.jsonl"):
            encoded = encode(example, TOKENIZER)
            found = reader.read([row_key(encoded.input_ids, encoded.supervised)])
            assert len(found) == len(encoded.targets)
