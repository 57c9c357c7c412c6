"""Answers written by the daemon: nothing is asked twice, nothing is lost, bad ones are left out."""

from __future__ import annotations

import json
import re
import shutil
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.daemon import Asked, FakeDaemon, Fault, Turn, nobody_listens
from fakes.listening import Listener
from fakes.trainable import SPLITS, corpus_of

from ollama_bridge.client import Client
from ollama_bridge.errors import (
    ConfigError,
    DaemonError,
    DaemonUnreachableError,
    ModelNotFoundError,
    RequestRejectedError,
)
from ollama_bridge.examples import Example, Message, read_examples, write_examples
from ollama_bridge.recipe.config import TeacherSection
from ollama_bridge.recipe.loading import load_recipe
from ollama_bridge.storage.artifacts import Corpus
from ollama_bridge.teacher.daemon import write_answers
from ollama_bridge.teacher.respondent import find_or_recall, find_respondent, in_daemons

SETTINGS = TeacherSection(model="ollama:m", answers="daemon", answer_tokens=7, in_flight=1)


def text_of(asked: Asked) -> str:
    if "prompt" in asked.json:
        return "canary"  # a batch asks for one token after a failure
    return str(asked.json["messages"][-1]["content"])


def polite(asked: Asked) -> Turn:
    return Turn(pieces=[f" Thank you for {text_of(asked)}. "])


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with FakeDaemon(script=polite) as running:
        yield running


def example(name: str, *, answer: str | None = None) -> Example:
    messages = [Message("system", "S"), Message("user", name)]
    if answer is not None:
        messages.append(Message("assistant", answer))
    return Example(name, tuple(messages), name)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    splits = {
        "train": [example(f"train{n}") for n in range(8)],
        "validation": [example("val0")],
        "test": [example("test0"), example("gold", answer="as given")],
    }
    return corpus_of(tmp_path / "corpus", splits)


def open_corpus(folder: Path, count: int) -> Corpus:
    """So many examples to be answered; what is scored has its answers."""
    splits = {split: [example(split, answer="as given")] for split in ("validation", "test")}
    splits["train"] = [example(f"train{n}") for n in range(count)]
    return corpus_of(folder, splits)


@pytest.fixture
def labelled(tmp_path: Path) -> Corpus:
    splits = {
        split: [
            replace(example(f"{split}{number}", answer="positive"), label="positive")
            for number in range(count)
        ]
        for split, count in zip(SPLITS, (6, 1, 1), strict=True)
    }
    return corpus_of(tmp_path / "labelled", splits)


def write(
    corpus: Corpus,
    daemon: FakeDaemon,
    folder: Path,
    *,
    settings: TeacherSection = SETTINGS,
    labels: Sequence[str] = (),
    reporter: Listener | None = None,
) -> Corpus:
    return write_answers(
        corpus,
        settings,
        respondent=in_daemons("m", [daemon.host]),
        out_dir=folder / "answers",
        labels=labels,
        reporter=reporter,
    )


def asked_texts(daemon: FakeDaemon) -> list[str]:
    return [body["messages"][-1]["content"] for body in daemon.questions]


def test_prompts_are_answered_and_gold_is_kept(
    corpus: Corpus, daemon: FakeDaemon, tmp_path: Path
) -> None:
    """Every open example gets the teacher's answer; what had one is not asked."""
    answered = write(corpus, daemon, tmp_path)
    test = list(read_examples(answered.split_path("test")))
    assert test[0].messages[-1] == Message("assistant", "Thank you for test0.")
    assert test[1].messages[-1].content == "as given"
    assert sorted(asked_texts(daemon)) == sorted(
        ["test0", "val0", *(f"train{number}" for number in range(8))]
    )
    options = [body["options"] for body in daemon.questions]
    assert all(one["num_predict"] == 7 for one in options)
    assert len({one["seed"] for one in options}) == 10
    assert not any("logprobs" in body for body in daemon.questions)
    assert answered.facts == {
        "train": 8,
        "validation": 1,
        "test": 2,
        "answers": {"had an answer": 1, "kept": 10},
        "teacher": "m",
    }


@pytest.mark.parametrize(
    ("own", "of_corpus", "told"),
    [
        ("Own.", "S", "m is asked not with its own SYSTEM but with that of the corpus (its own: "),
        ("Own.", "", "m is asked with its own SYSTEM where the corpus has none, which the student"),
        ("S", "S", None),
        ("", "S", None),
    ],
)
def test_what_a_tag_says_of_itself_is_told(
    daemon: FakeDaemon, tmp_path: Path, own: str, of_corpus: str, told: str | None
) -> None:
    """Whoever wrote a SYSTEM took care of it; the daemon lets a question's own one replace it."""
    daemon.shown = {**daemon.shown, "system": own}
    splits = {
        split: [Example(split, tuple(one for one in asked if one.content), split)]
        for split in SPLITS
        for asked in [(Message("system", of_corpus), Message("user", split))]
    }
    listener = Listener()
    write(corpus_of(tmp_path / "corpus", splits), daemon, tmp_path, reporter=listener)
    said = [note for note in listener.notes if "SYSTEM" in note]
    assert [note[: len(told or "")] for note in said] == ([told] if told else [])
    assert all('--set task.system="$(ollama-bridge show m --system)"' in note for note in said)


def test_turns_in_a_tag_are_told(corpus: Corpus, daemon: FakeDaemon, tmp_path: Path) -> None:
    """The student learns answers that were given behind them, without them."""
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    daemon.shown = {**daemon.shown, "messages": turns}
    listener = Listener()
    write(corpus, daemon, tmp_path, reporter=listener)
    assert listener.notes == [
        "m is asked behind the MESSAGEs of its tag, which the student will not read"
    ]


@pytest.mark.parametrize("survived", range(11))
def test_a_broken_run_goes_on(
    corpus: Corpus, daemon: FakeDaemon, tmp_path: Path, survived: int
) -> None:
    """After a failure at any request, the next run asks only for the rest."""

    def breaks(asked: Asked) -> Turn:
        if len(daemon.questions) > survived:
            daemon.models.clear()
            return Turn(refusal=(404, "model 'm' not found"))
        return polite(asked)

    daemon.script = breaks
    if survived < 10:
        with pytest.raises(ModelNotFoundError):
            write(corpus, daemon, tmp_path)
    before = asked_texts(daemon)[:survived]
    daemon.script, daemon.models = polite, {"m:latest": "d" * 64}
    daemon.asked.clear()
    answered = write(corpus, daemon, tmp_path)
    if survived < 10:
        assert len({*before, *asked_texts(daemon)}) == survived + len(daemon.questions) == 10
    whole = write(corpus, daemon, tmp_path / "whole")
    assert answered.digest == whole.digest


def test_another_model_is_other_work(corpus: Corpus, daemon: FakeDaemon, tmp_path: Path) -> None:
    """Same tag, other digest: all is asked again."""
    write(corpus, daemon, tmp_path)
    write(corpus, daemon, tmp_path)
    assert len(daemon.questions) == 10
    daemon.models["m:latest"] = "e" * 64
    write(corpus, daemon, tmp_path)
    assert len(daemon.questions) == 20


def test_several_daemons_answer_together(
    corpus: Corpus, daemon: FakeDaemon, tmp_path: Path
) -> None:
    """Each has to have the same model; then both are asked, and the result is the same."""
    alone = write(corpus, daemon, tmp_path / "alone")
    with FakeDaemon(script=polite) as other:
        daemon.asked.clear()
        together = write_answers(
            corpus,
            SETTINGS,
            respondent=in_daemons("m", [daemon.host, other.host]),
            out_dir=tmp_path / "together",
        )
        assert len(daemon.questions) + len(other.questions) == 10
        assert daemon.questions
        assert other.questions
        other.shown = {"modelfile": "FROM /x/sha256-" + "a" * 64}
        with pytest.raises(ConfigError, match="another model"):
            in_daemons("m", [daemon.host, other.host])
    assert together.digest == alone.digest


@pytest.mark.parametrize("away_first", [True, False])
def test_a_daemon_that_does_not_answer_takes_no_part(
    corpus: Corpus, daemon: FakeDaemon, tmp_path: Path, *, away_first: bool
) -> None:
    """The others do its work, and it is told; with none there the stage does not begin."""
    nobody = nobody_listens()
    hosts = (nobody, daemon.host) if away_first else (daemon.host, nobody)
    with Client(daemon.host) as client:
        settings = SETTINGS.model_copy(update={"hosts": hosts})
        respondent = find_respondent(settings, client)
        assert respondent.identity == "d" * 64
        with pytest.raises(DaemonUnreachableError):
            find_respondent(SETTINGS.model_copy(update={"hosts": (nobody,)}), client)
        both = (nobody, nobody_listens())
        with pytest.raises(DaemonUnreachableError, match=".*".join(both)):
            find_respondent(SETTINGS.model_copy(update={"hosts": both}), client)
    heard = Listener()
    write_answers(
        corpus, settings, respondent=respondent, out_dir=tmp_path / "answers", reporter=heard
    )
    assert len(daemon.questions) == 10
    told = heard.notes
    assert any(message.startswith(f"{nobody} is no longer asked: ") for message in told)


def test_one_model_is_the_same_work_at_whichever_daemons(daemon: FakeDaemon) -> None:
    """Made by hand at each, its tags' digests differ: what it is made of is what counts."""
    made = "FROM /x/sha256-" + "a" * 64
    with FakeDaemon(models={"m:latest": "e" * 64}) as other:
        other.shown = daemon.shown = {**daemon.shown, "modelfile": made}
        both = [daemon.host, other.host]
        identity = in_daemons("m", both).identity
        assert in_daemons("m", both[::-1]).identity == identity
        for left in ([nobody_listens(), other.host], [other.host]):
            assert in_daemons("m", left, known=[identity]).identity == identity
            assert in_daemons("m", left).identity == "e" * 64
        for begun in ("d" * 64, "e" * 64):
            assert in_daemons("m", both, known=["f" * 64, begun]).identity == begun
        for changed in ("FROM /x/sha256-" + "b" * 64, f"{made}\nRENDERER other"):
            other.shown = daemon.shown = {**daemon.shown, "modelfile": changed}
            assert in_daemons("m", both, known=[identity]).identity != identity


@pytest.mark.parametrize("first", ["both", "one"])
def test_what_was_begun_is_gone_on_with_at_whichever_daemons(
    corpus: Corpus, daemon: FakeDaemon, tmp_path: Path, first: str
) -> None:
    """One of two daemons whose tags' digests differ goes, or comes: nothing is asked twice."""
    folder, questions = tmp_path / "answers", []
    with FakeDaemon(models={"m:latest": "e" * 64}) as other, Client(daemon.host) as client:
        other.shown = daemon.shown = {**daemon.shown, "modelfile": "FROM /x/sha256-" + "a" * 64}
        hosts = {"both": (daemon.host, other.host), "one": (other.host,)}
        second = "one" if first == "both" else "both"

        def answer(who: str) -> Corpus:
            settings = SETTINGS.model_copy(update={"hosts": hosts[who]})
            respondent = find_or_recall(settings, client, [folder], Listener())
            return write_answers(corpus, settings, respondent=respondent, out_dir=folder)

        def breaks(asked: Asked) -> Turn:
            questions.append(text_of(asked))
            if len(questions) > 4:
                return Turn(refusal=(404, "model 'm' not found"))
            return polite(asked)

        daemon.script = other.script = breaks
        with pytest.raises(ModelNotFoundError):
            answer(first)
        kept = (tmp_path / "answers-replies.jsonl").read_text().count("\n")
        assert kept
        daemon.script = other.script = polite
        daemon.asked.clear()
        other.asked.clear()
        begun = answer(second)
        assert len(daemon.questions) + len(other.questions) == 10 - kept
        assert answer(first).digest == begun.digest
        assert len(daemon.questions) + len(other.questions) == 10 - kept


def test_what_was_finished_needs_no_teacher(
    corpus: Corpus, daemon: FakeDaemon, tmp_path: Path
) -> None:
    """A tag that is gone, or a box that was given back, stops only who would ask it."""
    folder = tmp_path / "answers"

    def again(client: Client, heard: Listener, **changes: object) -> Corpus:
        settings = SETTINGS.model_copy(update=changes)
        respondent = find_or_recall(settings, client, [tmp_path / "none", folder], heard)
        return write_answers(corpus, settings, respondent=respondent, out_dir=folder)

    with Client(daemon.host) as client:
        first = again(client, Listener())
        daemon.models.clear()
        heard = Listener()
        assert again(client, heard).digest == first.digest
        (note,) = heard.events
        assert "no model 'm'; what m answered before is used" in note.message
        assert again(client, Listener(), hosts=(nobody_listens(),)).digest == first.digest
        with pytest.raises(ModelNotFoundError, match="no model 'm'"):
            again(client, Listener(), answer_tokens=9)
        with pytest.raises(ModelNotFoundError, match="no model 'other'"):
            again(client, Listener(), model="ollama:other")
    assert len(daemon.questions) == 10


def test_the_model_is_that_of_the_daemons_that_are_asked(daemon: FakeDaemon) -> None:
    """Not that of the daemon in use, which may have another of that name, or none."""
    with FakeDaemon(models={"m:latest": "e" * 64}) as named, Client(daemon.host) as in_use:
        settings = SETTINGS.model_copy(update={"hosts": (named.host,)})
        assert find_respondent(settings, in_use).identity == "e" * 64
        assert not daemon.asked
        assert find_respondent(SETTINGS, in_use).identity == "d" * 64


def test_bad_answers_are_left_out_and_counted(
    corpus: Corpus, daemon: FakeDaemon, tmp_path: Path
) -> None:
    """Cut, empty and looping answers, and rows that the daemon refuses, do not get in."""
    overflow = (400, "the request exceeds the available context size")

    def mixed(asked: Asked) -> Turn:
        turns = {
            "train0": Turn(pieces=["cut off in the"], done_reason="length"),
            "train1": Turn(pieces=["  "]),
            "train2": Turn(pieces=["well " * 20]),
            "train3": Turn(refusal=overflow),
            "train4": Turn(refusal=(400, "odd row")),
        }
        return turns.get(text_of(asked)) or polite(asked)

    daemon.script = mixed
    heard = Listener()
    answered = write(corpus, daemon, tmp_path, reporter=heard)
    (told,) = heard.notes
    assert told.endswith("; for longer ones, all asked again: --set teacher.answer_tokens=14")
    kept = [one.id for one in read_examples(answered.split_path("train"))]
    assert kept == ["train5", "train6", "train7"]
    card = json.loads((answered.path / "card.json").read_text())
    assert card["outcomes"]["train"] == {
        "cut at the limit": 1,
        "empty": 1,
        "kept": 3,
        "looping": 1,
        "refused": 2,
    }
    refused = [
        json.loads(line) for line in (answered.path / "refused.jsonl").read_text().splitlines()
    ]
    assert [record["error"].partition(":")[0] for record in refused] == [
        "ContextOverflowError",
        "RequestRejectedError",
    ]


def test_a_daemon_that_refuses_everything_is_not_the_rows_fault(
    corpus: Corpus, daemon: FakeDaemon, tmp_path: Path
) -> None:
    """Five refusals in a row stop the stage, and cost no row."""
    daemon.script = lambda asked: Turn(refusal=(400, "no thanks"))
    with pytest.raises(RequestRejectedError, match="no thanks"):
        write(corpus, daemon, tmp_path)
    assert len(daemon.questions) == 5
    daemon.script = polite
    assert write(corpus, daemon, tmp_path).facts["train"] == 8


def test_a_missing_model_stops_at_once(corpus: Corpus, daemon: FakeDaemon, tmp_path: Path) -> None:
    """No such model: that is seen before anything is asked."""
    daemon.models.clear()
    with pytest.raises(ModelNotFoundError):
        write(corpus, daemon, tmp_path)
    assert not daemon.questions


def test_a_model_that_is_replaced_meanwhile_is_noticed(
    corpus: Corpus, daemon: FakeDaemon, tmp_path: Path
) -> None:
    """What came of both is no answered corpus; the new one is asked for everything."""

    def replaced(asked: Asked) -> Turn:
        if len(daemon.questions) == 4:
            daemon.models["m:latest"] = "e" * 64
        return polite(asked)

    daemon.script = replaced
    with pytest.raises(ModelNotFoundError, match="no longer the model"):
        write(corpus, daemon, tmp_path)
    assert not (tmp_path / "answers").exists()
    daemon.script = polite
    daemon.asked.clear()
    assert write(corpus, daemon, tmp_path).facts["train"] == 8
    assert len(daemon.questions) == 10


def test_no_usable_answer_for_a_split_is_an_error(
    corpus: Corpus, daemon: FakeDaemon, tmp_path: Path
) -> None:
    """A teacher whose answers are all cut off teaches nothing."""
    daemon.script = lambda asked: Turn(pieces=["cut"], done_reason="length")
    with pytest.raises(DaemonError, match="no usable answer for the train split: 8 cut"):
        write(corpus, daemon, tmp_path)


_CUT = Turn(thinking=["Well, "], pieces=[""], done_reason="length")
_LOOP = Turn(pieces=["so "] * 31, fault=Fault.NO_DONE)  # as Ollama ends it


@pytest.mark.parametrize(
    ("usable", "turn", "said", "hint"),
    [
        (None, _CUT, "50 cut", "which is 7"),
        (None, _LOOP, "50 looping", "another teacher"),
        (3, _CUT, "", ""),
    ],
)
def test_a_teacher_that_comes_to_no_answer_is_not_asked_on(
    daemon: FakeDaemon, tmp_path: Path, usable: int | None, turn: Turn, said: str, hint: str
) -> None:
    """After 50 replies that are cut, in this run or the one before, the rest is not asked for."""

    def says(asked: Asked) -> Turn:
        if text_of(asked) == f"train{usable}":
            return polite(asked)
        return turn

    corpus = open_corpus(tmp_path / "long", 90)
    daemon.script = says
    if usable is not None:
        assert write(corpus, daemon, tmp_path).facts["train"] == 1
        return
    for _ in range(2):
        with pytest.raises(
            DaemonError, match=f"no usable answer among the first 50: {said}"
        ) as caught:
            write(corpus, daemon, tmp_path)
        assert hint in (caught.value.hint or "")
        assert 50 <= len(daemon.questions) < 60


def test_thinking_is_kept_where_it_is_right(
    labelled: Corpus, daemon: FakeDaemon, tmp_path: Path
) -> None:
    """Gold answers are written again with their reasons; what ends on the wrong label is not.

    Whatever marks the teacher puts around a label, the student learns the label.
    """

    def thinks(asked: Asked) -> Turn:
        text = text_of(asked)
        turns = {
            "train1": Turn(thinking=["Hm."], pieces=["negative"]),
            "train2": Turn(thinking=["Wait, no. " * 9], pieces=["positive"]),
            "train3": Turn(thinking=["It is"], pieces=[""], done_reason="length"),
            "train4": Turn(pieces=["positive"]),
        }
        return turns.get(text) or Turn(thinking=["They like ", "it."], pieces=["**Positive.**"])

    daemon.script = thinks
    settings = SETTINGS.model_copy(update={"rewrite": True, "thinking": "keep"})
    answered = write(labelled, daemon, tmp_path, settings=settings)
    train = list(read_examples(answered.split_path("train")))
    assert [one.id for one in train] == ["train0", "train5"]
    text = "<think>\nThey like it.\n</think>\n\npositive"
    assert train[0].messages[-1] == Message("assistant", text)
    assert not any(text.startswith("test") for text in asked_texts(daemon))
    assert json.loads((answered.path / "card.json").read_text())["outcomes"]["train"] == {
        "cut at the limit": 1,
        "kept": 2,
        "looping thinking": 1,
        "without thinking": 1,
        "wrong answer": 1,
    }


def test_labels_that_differ_in_case_are_two(
    labelled: Corpus, daemon: FakeDaemon, tmp_path: Path
) -> None:
    """What says the one is wrong for the other; with labels that differ otherwise no case counts.

    Which it was is part of the work: answers that were judged otherwise are not found again.
    """
    daemon.script = lambda asked: Turn(
        thinking=["Hm."], pieces=["Positive" if text_of(asked) < "train4" else "**positive**"]
    )
    settings = SETTINGS.model_copy(update={"rewrite": True, "thinking": "keep"})
    kept = {}
    for labels in (("positive", "negative"), ("positive", "Positive")):
        answered = write(labelled, daemon, tmp_path, settings=settings, labels=labels)
        kept[labels[1]] = [one.id for one in read_examples(answered.split_path("train"))]
    assert kept["negative"] == [f"train{number}" for number in range(6)]
    assert kept["Positive"] == ["train4", "train5"]


@pytest.mark.parametrize(("said", "of"), [(0, 11), (1, 11), (3, 11), (0, 4)])
def test_no_class_is_lost_without_a_word(
    labelled: Corpus, daemon: FakeDaemon, tmp_path: Path, said: int, of: int
) -> None:
    """A label that is spelt otherwise stops the stage; a rare or nearly lost one is told."""
    rows = [replace(example(f"neutral{n}", answer="neutral"), label="neutral") for n in range(of)]
    train = [*read_examples(labelled.split_path("train")), *rows]
    write_examples(labelled.split_path("train"), train)

    def says(asked: Asked) -> Turn:
        text = text_of(asked)
        if not text.startswith("neutral"):
            return Turn(pieces=["positive"])
        return Turn(pieces=["neutral" if int(text[7:]) < said else "Neutral tone"])

    daemon.script = says
    heard = Listener()

    def answer() -> Corpus:
        return write_answers(
            labelled,
            SETTINGS.model_copy(update={"rewrite": True}),
            respondent=in_daemons("m", [daemon.host]),
            out_dir=tmp_path / "answers",
            labels=("positive", "neutral", "sad"),
            reporter=heard,
        )

    if not said and of == 11:
        with pytest.raises(
            DaemonError, match="says 'neutral' in 0 of 11 training examples"
        ) as caught:
            answer()
        assert not (tmp_path / "answers").exists()
        advice = re.findall(r"--set (\S+)", caught.value.hint or "")
        for scores in ([], ["teacher.soft_labels=daemon", "soft_labels.method=top_k"]):
            recipe = load_recipe("reasoning-quick", overrides=[*scores, *advice])
            assert recipe.teacher.answers == "gold"
        return
    assert answer().facts["train"] == 6 + said
    assert len(heard.warnings) == (said < 3)


@pytest.mark.parametrize("thinking", [["Hm."], []], ids=["thinks", "no logprobs"])
def test_a_teacher_that_brings_no_distribution_is_not_asked_on(
    daemon: FakeDaemon, tmp_path: Path, thinking: list[str]
) -> None:
    """Where they were to come with its answers: of 8 answers it is known, not after all."""
    entry = {"token": "yes", "logprob": -0.5}
    found = [[{**entry, "top_logprobs": [entry]}]] if thinking else None
    daemon.script = lambda asked: Turn(thinking=thinking, pieces=["yes"], logprobs=found)
    corpus = open_corpus(tmp_path / "open", 60)
    soft = SETTINGS.model_copy(update={"soft_labels": "daemon"})
    with pytest.raises(DaemonError, match="no distribution for any of the first 8 replies") as told:
        write(corpus, daemon, tmp_path, settings=soft)
    advice = re.findall(r"--set teacher.(\S+)", told.value.hint or "")
    assert advice == ["score=both;", "thinking=keep"]
    assert len(daemon.questions) < 20
    both = soft.model_copy(update={"score": "both"})
    assert write(corpus, daemon, tmp_path, settings=both).facts["train"] == 60


def test_a_teacher_without_thoughts_is_told_what_helps(
    labelled: Corpus, daemon: FakeDaemon, tmp_path: Path
) -> None:
    """More tokens do not; another mode does, and of a server that it tells the thoughts."""
    daemon.script = lambda asked: Turn(pieces=["positive"])
    for base_url, advice in (None, "choose a teacher"), ("http://box/v1", "start the server"):
        changes = {"rewrite": True, "thinking": "keep", "base_url": base_url}
        with pytest.raises(DaemonError, match="6 without thinking") as caught:
            write(labelled, daemon, tmp_path, settings=SETTINGS.model_copy(update=changes))
        assert (caught.value.hint or "").startswith(advice)
        assert (caught.value.hint or "").endswith("--set teacher.thinking=strip")


def test_thoughts_that_a_log_has_in_the_answer_are_told_from_it(
    labelled: Corpus, daemon: FakeDaemon, tmp_path: Path
) -> None:
    """Replies that were kept before they were told apart are not asked for again."""
    daemon.script = lambda asked: Turn(pieces=["positive"])
    settings = SETTINGS.model_copy(update={"rewrite": True, "thinking": "keep"})
    with pytest.raises(DaemonError):
        write(labelled, daemon, tmp_path, settings=settings)
    log = tmp_path / "answers-replies.jsonl"
    log.write_text(
        log.read_text().replace('"positive"', '"They like it.\\n</think>\\n\\npositive"')
    )
    asked = len(daemon.questions)
    answered = write(labelled, daemon, tmp_path, settings=settings)
    assert len(daemon.questions) == asked
    first = next(iter(read_examples(answered.split_path("train"))))
    assert first.messages[-1].content == "<think>\nThey like it.\n</think>\n\npositive"


@pytest.mark.parametrize("whole", [True, False])
def test_answers_with_tags_of_thinking_that_were_kept_are_judged_again(
    corpus: Corpus, daemon: FakeDaemon, tmp_path: Path, *, whole: bool
) -> None:
    """Of the replies, so only while all of them are there; others are what they were."""
    first = write(corpus, daemon, tmp_path)
    assert first.manifest.work.version == 3
    log = tmp_path / "answers-replies.jsonl"
    tagged = log.read_text().replace("for train3", "<think>Hm.</think>")
    assert "<think>" in tagged
    log.write_text(tagged if whole else tagged.partition("\n")[2])
    again = write(corpus, daemon, tmp_path)
    assert again.facts["train"] == (7 if whole else 8)
    assert again.facts["answers"].get("tags of thinking in the answer") == (1 if whole else None)
    written_ns = (again.path / "manifest.json").stat().st_mtime_ns
    assert write(corpus, daemon, tmp_path).digest == again.digest
    assert (again.path / "manifest.json").stat().st_mtime_ns == written_ns
    assert len(daemon.questions) == 10


def test_a_teacher_whose_thoughts_nobody_tells_apart_is_not_given_more_tokens(
    labelled: Corpus, daemon: FakeDaemon, tmp_path: Path
) -> None:
    """Another teacher helps, or a server that tells them."""
    daemon.script = lambda asked: Turn(pieces=["Well. <think>Hm.</think> positive"])
    for base_url, advice in (None, "choose a teacher whose"), ("http://box/v1", "start the server"):
        changes = {"rewrite": True, "base_url": base_url}
        with pytest.raises(DaemonError, match="6 tags of thinking in the answer") as caught:
            write(labelled, daemon, tmp_path, settings=SETTINGS.model_copy(update=changes))
        assert (caught.value.hint or "").startswith(advice)
        assert "answer_tokens" not in (caught.value.hint or "")


def test_traces_are_treated_anew_without_asking_again(
    labelled: Corpus, daemon: FakeDaemon, tmp_path: Path
) -> None:
    """What the model replied is kept: kept, shortened and stripped are made of the same replies."""
    daemon.script = lambda asked: Turn(thinking=["One. Two. Three."], pieces=["positive"])
    found = {}
    for mode in ("keep", "shorten", "strip"):
        changes = {"rewrite": True, "thinking": mode, "thinking_words": 2}
        answered = write(labelled, daemon, tmp_path, settings=SETTINGS.model_copy(update=changes))
        first = next(iter(read_examples(answered.split_path("train"))))
        found[mode] = first.messages[-1].content.split("\n")[-4:-3]
    assert found == {"keep": ["One. Two. Three."], "shorten": ["One. Three."], "strip": []}
    assert len(daemon.questions) == 7


def test_a_written_reply_has_to_say_what_is_known(
    corpus: Corpus, daemon: FakeDaemon, tmp_path: Path
) -> None:
    """An open example with a label, such as the result of a sum, keeps right answers only."""
    splits = {split: [example(f"{split}7")] for split in ("validation", "test")}
    splits["train"] = [replace(example(f"train{n}"), label=str(n)) for n in range(4)]
    daemon.script = lambda asked: Turn(pieces=[text_of(asked)[-1].replace("2", "-2")])
    answered = write(corpus_of(tmp_path / "sums", splits), daemon, tmp_path)
    kept = [one.id for one in read_examples(answered.split_path("train"))]
    assert kept == ["train0", "train1", "train3"]
    assert answered.facts["answers"] == {"kept": 5, "wrong answer": 1}


def test_what_is_tested_does_not_depend_on_the_teacher(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Open examples with a label stay in the test split, whatever the teacher says to them."""
    labelled = [replace(example(f"test{number}"), label=str(number)) for number in range(5)]
    splits = {split: [example(f"{split}1")] for split in ("train", "validation")}
    splits["test"] = [*labelled, example("test7")]

    def says(asked: Asked) -> Turn:
        turns = {
            "test1": Turn(pieces=["2"]),
            "test2": Turn(pieces=["cut"], done_reason="length"),
            "test3": Turn(refusal=(400, "the request exceeds the available context size")),
            "test7": Turn(pieces=["cut"], done_reason="length"),
        }
        return turns.get(text_of(asked)) or Turn(pieces=[f"**{text_of(asked)[-1]}**"])

    daemon.script = says
    answered = write(corpus_of(tmp_path / "sums", splits), daemon, tmp_path)
    test = list(read_examples(answered.split_path("test")))
    assert [one.id for one in test] == [one.id for one in labelled]
    assert [one.messages[-1].content for one in test] == ["**0**", "1", "2", "3", "**4**"]
    assert answered.facts["test"] == 5
    card = json.loads((answered.path / "card.json").read_text())
    assert card["outcomes"]["test"] == {
        "answered by its label": 3,
        "cut at the limit": 1,
        "kept": 2,
    }


def test_distributions_come_along(corpus: Corpus, daemon: FakeDaemon, tmp_path: Path) -> None:
    """Where the daemon gives the soft labels, its likeliest tokens are kept with the answers."""
    entry = {"token": "Hi", "logprob": -0.1, "top_logprobs": [{"token": "Hi", "logprob": -0.1}]}
    daemon.script = lambda asked: Turn(pieces=["Hi"], logprobs=[[entry]])
    settings = SETTINGS.model_copy(update={"soft_labels": "daemon"})
    answered = write(corpus, daemon, tmp_path, settings=settings)
    assert all(body["top_logprobs"] == 20 for body in daemon.questions)
    lines = (answered.path / "train-logprobs.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [f"train{n}" for n in range(8)]
    assert json.loads(lines[0])["reply"]["logprobs"] == [["Hi", -0.1, 0, [["Hi", -0.1, 0]]]]


def test_distributions_are_not_all_in_memory(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Eight replies take hardly more than two."""
    rivals = [{"token": f"t{number}", "logprob": -1.0 - number / 7} for number in range(20)]
    entry = {"token": "t0", "logprob": -1.0, "top_logprobs": rivals}
    daemon.script = lambda asked: Turn(pieces=["Hi"], logprobs=[[entry] * 100])
    settings = SETTINGS.model_copy(update={"soft_labels": "daemon"})
    peaks = []
    for count in (2, 8):
        folder = tmp_path / str(count)
        corpus = open_corpus(folder / "corpus", count)
        answered = write(corpus, daemon, folder, settings=settings)
        shutil.rmtree(answered.path)  # written once more, of the same replies
        tracemalloc.start()
        write(corpus, daemon, folder, settings=settings)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_distributions_within_other_marks_do_not_come_along(
    labelled: Corpus, daemon: FakeDaemon, tmp_path: Path
) -> None:
    """They are of another text than the label that is learnt."""

    def says(asked: Asked) -> Turn:
        said = "**positive**" if text_of(asked) == "train1" else "positive"
        entry = {"token": said, "logprob": -0.1, "top_logprobs": [{"token": said, "logprob": -0.1}]}
        return Turn(pieces=[said], logprobs=[[entry]])

    daemon.script = says
    changes = {"rewrite": True, "soft_labels": "daemon"}
    answered = write(labelled, daemon, tmp_path, settings=SETTINGS.model_copy(update=changes))
    assert answered.facts["answers"] == {"had an answer": 1, "kept": 7}
    lines = (answered.path / "train-logprobs.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [f"train{n}" for n in (0, 2, 3, 4, 5)]


def test_a_crash_on_the_way_is_survived(corpus: Corpus, daemon: FakeDaemon, tmp_path: Path) -> None:
    """The runner crashes once: that row is asked again."""
    crashed: list[str] = []

    def crashes(asked: Asked) -> Turn:
        if text_of(asked) == "train3" and not crashed:
            crashed.append("train3")
            return Turn(fault=Fault.ERROR_LINE)
        return polite(asked)

    daemon.script = crashes
    assert write(corpus, daemon, tmp_path).facts["train"] == 8
    assert sum("messages" in body for body in daemon.questions) == 11
