"""The stage ``evaluate_served`` against a client that answers from a table."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes.listening import Listener
from fakes.trainable import LABELS, SYSTEM, corpus_of, sentiment_examples

from ollama_bridge.answer_text import with_thought
from ollama_bridge.client import ModelDetails
from ollama_bridge.errors import ContextOverflowError, DaemonUnreachableError, ModelNotFoundError
from ollama_bridge.evaluation.report import read_markdown
from ollama_bridge.evaluation.served import evaluate_served
from ollama_bridge.examples import Message, write_examples
from ollama_bridge.recipe.config import EvaluateSection, TaskSection
from ollama_bridge.storage.artifacts import Corpus
from ollama_bridge.storage.atomic_files import read_json_lines

TASK = TaskSection(kind="classify", system=SYSTEM, labels=LABELS)
REPLY = TaskSection(kind="reply", system=SYSTEM)
SETTINGS = EvaluateSection(bootstrap_samples=100, reply_tokens=6)
TAGS = {"teacher": "big:teacher", "student": "small"}


class FakeClient:
    """Serves ``big:teacher`` and ``small:latest``; the second is twice as fast."""

    def __init__(self, *, breaks_after: int | None = None) -> None:
        self.asked: list[tuple[str, str]] = []
        self.messages: list[Any] = []
        self.warm_ups: list[str] = []
        self.digest = "1"
        self.host = "http://127.0.0.1:11434"
        self.ollama = "0.34.4"
        self.thinks = ""
        self.parameters: dict[str, str] = {}
        self.options: dict[str, Mapping[str, object]] = {}
        self._breaks_after = breaks_after

    def version(self) -> str:
        return self.ollama

    def list(self) -> list[Any]:
        return [
            SimpleNamespace(name="big:teacher", digest="b", size_bytes=200),
            SimpleNamespace(name="small:latest", digest=self.digest, size_bytes=100),
        ]

    def show(self, model: str) -> ModelDetails:
        thinks = ("thinking",) if model == self.thinks else ()
        return ModelDetails("", "", "", self.parameters.get(model, ""), {}, thinks, raw={})

    def ps(self) -> list[Any]:
        return [
            SimpleNamespace(name="big:teacher", size_bytes=400),
            SimpleNamespace(name="small:latest", size_bytes=100),
        ]

    def chat(
        self,
        model: str,
        messages: str | Sequence[Mapping[str, str]],
        *,
        options: Mapping[str, object],
    ) -> Any:
        self.options[model] = options
        if isinstance(messages, str):
            self.warm_ups.append(model)
            return None
        if self._breaks_after is not None and len(self.asked) >= self._breaks_after:
            raise DaemonUnreachableError("gone")
        text = messages[-1]["content"]
        self.asked.append((model, text))
        self.messages.append(messages)
        slow = 2.0 if model == "big:teacher" else 1.0
        return SimpleNamespace(
            text=" positive " if len(text) % 2 else "Positive.",
            done_reason="stop" if len(text) % 2 else "length",
            prompt_tokens=10,
            generated_tokens=2,
            timings=SimpleNamespace(prompt_s=0.1 * slow, generate_s=0.01 * slow),
        )


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    examples = sentiment_examples(70, name="test")
    return corpus_of(tmp_path / "corpus", {"test": examples})


def test_answers_count_word_for_word(corpus: Corpus, tmp_path: Path) -> None:
    """Only the exact word is right; speeds are sums by sums; sizes come from the daemon."""
    client = FakeClient()
    report = evaluate_served(
        TAGS, corpus, SETTINGS, TASK, client=client, out_dir=tmp_path / "served"
    )
    data = json.loads(report.report_path.read_text())
    texts = [one.messages[1].content for one in sentiment_examples(70, name="test")]
    golds = [one.label for one in sentiment_examples(70, name="test")]
    odd = [len(text) % 2 == 1 for text in texts]
    right = sum(is_odd and gold == "positive" for is_odd, gold in zip(odd, golds, strict=True))
    student = data["models"]["student"]
    assert student["accuracy"]["value"] == pytest.approx(right / 70, abs=1e-4)
    assert student["one_word"] == pytest.approx(sum(odd) / 70, abs=1e-4)
    assert student["prompt_tokens_per_s"] == 100
    assert student["generated_tokens_per_s"] == 200
    assert (student["size_bytes"], student["memory_bytes"]) == (100, 100)
    ratios = data["student_to_teacher"]
    assert ratios["prompt_tokens_per_s"] == ratios["generated_tokens_per_s"] == 2
    assert (ratios["size_bytes"], ratios["memory_bytes"]) == (0.5, 0.25)
    assert "generated tokens/s" in read_markdown(report)


def test_answers_may_hold_any_character(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a surrogate pair and a line separator are wrong answers, and a finished report."""
    client = FakeClient()
    answer = client.chat

    def chat(model: str, messages: Any, *, options: Any) -> Any:
        reply = answer(model, messages, options=options)
        return reply and SimpleNamespace(**{**vars(reply), "text": "posi\u2028\ud83d"})

    monkeypatch.setattr(client, "chat", chat)
    report = evaluate_served(
        TAGS, corpus, SETTINGS, TASK, client=client, out_dir=tmp_path / "served"
    )
    said = read_json_lines(report.path / "predictions.jsonl")
    assert {row["student"] for row in said} == {"posi\u2028?"}


def test_the_tag_has_to_bring_its_system_prompt(corpus: Corpus, tmp_path: Path) -> None:
    """The task's system turn is not sent: it is part of what is served."""
    client = FakeClient()
    evaluate_served(TAGS, corpus, SETTINGS, TASK, client=client, out_dir=tmp_path / "served")
    assert all([turn["role"] for turn in messages] == ["user"] for messages in client.messages)


def test_a_tag_may_be_called_by_another_name(corpus: Corpus, tmp_path: Path) -> None:
    """A build of `Small` replaces `small`, under whose name Ollama goes on listing it."""
    tags = {"teacher": "big:teacher", "student": "library/Small"}
    report = evaluate_served(
        tags,
        corpus,
        SETTINGS,
        TASK,
        client=FakeClient(),
        out_dir=tmp_path / "served",
    )
    assert json.loads(report.report_path.read_text())["models"]["student"]["size_bytes"] == 100


def test_a_model_that_thinks_may_do_so(corpus: Corpus, tmp_path: Path) -> None:
    """The limit of one word is for the answer: what comes in <think> before has its own."""
    client = FakeClient()
    client.thinks = "small"
    evaluate_served(TAGS, corpus, SETTINGS, TASK, client=client, out_dir=tmp_path / "served")
    word = len("positive") + 1
    assert client.options["big:teacher"]["num_predict"] == word
    assert client.options["small"]["num_predict"] == word + SETTINGS.reply_tokens


def test_what_is_cut_in_its_thought_is_told(corpus: Corpus, tmp_path: Path) -> None:
    """A teacher that needs more tokens looks as if it knew nothing."""
    client = FakeClient()
    client.thinks = "big:teacher"
    listener = Listener()
    report = evaluate_served(
        TAGS,
        corpus,
        SETTINGS,
        TASK,
        client=client,
        out_dir=tmp_path / "served",
        reporter=listener,
    )
    cut = sum(len(text) % 2 == 0 for model, text in client.asked if model == "small")
    (warning,) = listener.notes
    assert f"{cut} of 70 answers of the teacher were cut at 15 tokens" in warning
    models = json.loads(report.report_path.read_text())["models"]
    assert models["teacher"]["ended"] == pytest.approx(1 - cut / 70, abs=1e-4)
    assert "answers ended by themselves" in read_markdown(report)


def test_who_was_taught_to_think_may_do_so(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where Ollama sees no thought: it is no part of the answer, and has its own limit."""
    trace = Message("assistant", with_thought("positive", "They like it."))
    rows = [
        replace(one, messages=(*one.prompt, trace)) for one in sentiment_examples(3, name="train")
    ]
    write_examples(corpus.split_path("train"), rows)
    client = FakeClient()
    answer = client.chat

    def chat(model: str, messages: Any, *, options: Any) -> Any:
        reply = answer(model, messages, options=options)
        text = with_thought("positive", "Well.")
        return reply and SimpleNamespace(**{**vars(reply), "text": text})

    monkeypatch.setattr(client, "chat", chat)
    report = evaluate_served(
        TAGS, corpus, SETTINGS, TASK, client=client, out_dir=tmp_path / "served"
    )
    word = len("positive") + 1
    assert client.options["small"]["num_predict"] == word + SETTINGS.reply_tokens
    assert json.loads(report.report_path.read_text())["models"]["student"]["one_word"] == 1


@pytest.mark.parametrize("task", [TASK, REPLY])
def test_no_tag_may_say_more_than_it_does_for_its_user(
    corpus: Corpus, tmp_path: Path, task: TaskSection
) -> None:
    """A tag whose num_predict cuts its answers is scored on what is left of them."""
    client = FakeClient()
    client.parameters["small"] = 'num_predict                    3\nstop    "<|im_end|>"'
    client.parameters["big:teacher"] = "num_predict                    -1"
    evaluate_served(TAGS, corpus, SETTINGS, task, client=client, out_dir=tmp_path / "served")
    assert client.options["small"]["num_predict"] == 3
    assert client.options["big:teacher"]["num_predict"] > 3


def test_replies_whose_right_answer_is_known_are_scored(tmp_path: Path) -> None:
    """Of texts with a label, the share whose answer says it; the others do not count."""
    examples = [
        replace(one, label=label)
        for one, label in zip(
            sentiment_examples(3, name="test"), ("Positive", "negative", None), strict=True
        )
    ]
    corpus = corpus_of(tmp_path / "corpus", {"test": examples})
    report = evaluate_served(
        TAGS, corpus, SETTINGS, REPLY, client=FakeClient(), out_dir=tmp_path / "served"
    )
    student = json.loads(report.report_path.read_text())["models"]["student"]
    assert student["accuracy"]["value"] == 0.5
    assert "50.0%" in read_markdown(report)


def test_models_take_turns(corpus: Corpus, tmp_path: Path) -> None:
    """Blocks alternate, and each begins with an unmeasured question."""
    client = FakeClient()
    evaluate_served(TAGS, corpus, SETTINGS, TASK, client=client, out_dir=tmp_path / "served")
    order = [model for model, _ in client.asked]
    changes = [one for one, before in zip(order, [None, *order], strict=False) if one != before]
    assert changes == ["big:teacher", "small", "big:teacher"]
    assert len(client.warm_ups) == 4


@pytest.mark.parametrize("breaks_after", [0, 1, 60, 139])
def test_nothing_is_asked_twice(corpus: Corpus, tmp_path: Path, breaks_after: int) -> None:
    """A run that broke goes on where it was; a finished one asks nothing."""
    first, second = FakeClient(breaks_after=breaks_after), FakeClient()
    out_dir = tmp_path / "served"
    with pytest.raises(DaemonUnreachableError):
        evaluate_served(TAGS, corpus, SETTINGS, TASK, client=first, out_dir=out_dir)
    evaluate_served(TAGS, corpus, SETTINGS, TASK, client=second, out_dir=out_dir)
    assert len(first.asked) + len(second.asked) == 140
    third = FakeClient()
    evaluate_served(TAGS, corpus, SETTINGS, TASK, client=third, out_dir=out_dir)
    assert not third.asked
    third.digest = "another model under the same tag"
    evaluate_served(TAGS, corpus, SETTINGS, TASK, client=third, out_dir=out_dir)
    assert len(third.asked) == 140


def test_another_number_asks_for_no_answer_again(corpus: Corpus, tmp_path: Path) -> None:
    """Of texts, or of samples, behind a run that broke or one that did not; of the same Ollama."""
    first, out_dir = FakeClient(breaks_after=50), tmp_path / "served"
    few = SETTINGS.model_copy(update={"served_examples": 40})
    with pytest.raises(DaemonUnreachableError):
        evaluate_served(TAGS, corpus, few, TASK, client=first, out_dir=out_dir)
    second = FakeClient()
    report = evaluate_served(TAGS, corpus, SETTINGS, TASK, client=second, out_dir=out_dir)
    asked = Counter(first.asked + second.asked)
    alone = FakeClient()
    expected = evaluate_served(
        TAGS, corpus, SETTINGS, TASK, client=alone, out_dir=tmp_path / "alone"
    )
    assert asked == Counter(alone.asked)
    assert (report.path / "predictions.jsonl").read_text() == (
        expected.path / "predictions.jsonl"
    ).read_text()
    third = FakeClient()
    for changes in ({"bootstrap_samples": 200}, {"served_examples": 20}):
        settings = SETTINGS.model_copy(update=changes)
        evaluate_served(TAGS, corpus, settings, TASK, client=third, out_dir=out_dir)
    third.host = "http://[::1]:11434"
    evaluate_served(TAGS, corpus, SETTINGS, TASK, client=third, out_dir=out_dir)
    assert not third.asked
    third.parameters["small"] = "num_predict                    3"
    again = SETTINGS.model_copy(update={"bootstrap_samples": 300})
    evaluate_served(TAGS, corpus, again, TASK, client=third, out_dir=out_dir)
    # Both: they take turns, and times of two occasions would be no ratio.
    assert Counter(model for model, _ in third.asked) == {"big:teacher": 70, "small": 70}


def test_answers_do_not_pile_up(corpus: Corpus, tmp_path: Path) -> None:
    """A report forgets other models' answers, and none of the texts that it did not ask."""
    client, out_dir = FakeClient(), tmp_path / "served"
    few = SETTINGS.model_copy(update={"served_examples": 40})
    for digest in ("1", "2", "3"):
        client.digest = digest
        evaluate_served(TAGS, corpus, SETTINGS, TASK, client=client, out_dir=out_dir)
        evaluate_served(TAGS, corpus, few, TASK, client=client, out_dir=out_dir)
        records = read_json_lines(tmp_path / "served-answers.jsonl")
        assert len([record for record in records if "answer" in record]) == 2 * 70
        assert len([record for record in records if "memory_bytes" in record]) == 2
    assert len(client.asked) == 3 * 2 * 70


@pytest.mark.parametrize(
    ("name", "value"),
    [("ollama", "0.35.0"), ("host", "http://box:11434"), ("host", "http://127.0.0.1:11435")],
)
def test_another_ollama_s_answers_are_its_own(
    corpus: Corpus, tmp_path: Path, name: str, value: str
) -> None:
    """Also where the report of one is finished; at another port a tunnel may end."""
    out_dir = tmp_path / "served"
    evaluate_served(TAGS, corpus, SETTINGS, TASK, client=FakeClient(), out_dir=out_dir)
    other = FakeClient()
    setattr(other, name, value)
    evaluate_served(TAGS, corpus, SETTINGS, TASK, client=other, out_dir=out_dir)
    assert len(other.asked) == 140
    again = FakeClient()
    setattr(again, name, value)
    evaluate_served(TAGS, corpus, SETTINGS, TASK, client=again, out_dir=out_dir)
    assert not again.asked


def test_fewer_texts_are_a_fixed_choice(corpus: Corpus, tmp_path: Path) -> None:
    """The smaller of both limits holds, and both models get the same texts."""
    client = FakeClient()
    settings = SETTINGS.model_copy(update={"served_examples": 20, "max_examples": 30})
    evaluate_served(TAGS, corpus, settings, TASK, client=client, out_dir=tmp_path / "served")
    by_model = {
        tag: [text for model, text in client.asked if model == tag] for tag in TAGS.values()
    }
    assert by_model["big:teacher"] == by_model["small"]
    assert len(by_model["small"]) == 20


def test_a_text_beyond_the_context_is_a_wrong_answer(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One text that does not fit costs a point, not the evaluation; it is told with its fix."""
    client, listener = FakeClient(), Listener()
    answer = client.chat

    def chat(model: str, messages: Any, *, options: Any) -> Any:
        if model == "small" and len(client.asked) == 60:
            client.asked.append((model, ""))
            error = ContextOverflowError("too long", status_code=400)
            error.needed_tokens, error.limit_tokens = 3000, 2048
            raise error
        return answer(model, messages, options=options)

    monkeypatch.setattr(client, "chat", chat)
    for samples in (100, 200):  # the second is made of the answers that were kept
        report = evaluate_served(
            TAGS,
            corpus,
            SETTINGS.model_copy(update={"bootstrap_samples": samples}),
            TASK,
            client=client,
            out_dir=tmp_path / "served",
            reporter=listener,
        )
    data = json.loads(report.report_path.read_text())
    assert data["examples"] == 70
    assert [entry.get("too_long") for entry in data["models"].values()] == [None, 1]
    first, second = listener.notes
    assert first == second
    begin = "1 of 70 test texts are longer than the context of 2048 tokens that the student is"
    assert first.startswith(begin)
    room = 3000 + client.options["small"]["num_predict"]  # type: ignore[operator]
    assert f"--set modelfile.parameters.num_ctx={room} " in first
    assert re.search(r"texts longer than the context +\| +\| 1 ", read_markdown(report))


def test_replies_are_described(corpus: Corpus, tmp_path: Path) -> None:
    """A reply task is sampled as the tag says, and its ends are counted."""
    client, listener = FakeClient(), Listener()
    client.parameters["small"] = "num_predict                    3"
    report = evaluate_served(
        TAGS,
        corpus,
        SETTINGS,
        REPLY,
        client=client,
        out_dir=tmp_path / "served",
        reporter=listener,
    )
    student = json.loads(report.report_path.read_text())["models"]["student"]
    cut = round(70 * (1 - student["ended"]))
    cuts = [note for note in listener.notes if "were cut" in note]
    for warning, (name, limit) in zip(cuts, {"teacher": 6, "student": 3}.items(), strict=True):
        assert warning.startswith(f"{cut} of 70 answers of the {name} were cut at {limit} tokens,")
    assert "| limit of an answer (tokens) | 6 " in read_markdown(report)
    texts = [one.messages[1].content for one in sentiment_examples(70, name="test")]
    assert student["ended"] == pytest.approx(sum(len(text) % 2 for text in texts) / 70)
    assert "answers ended by themselves" in read_markdown(report)


def test_a_tag_that_answers_most_texts_alike_is_told(corpus: Corpus, tmp_path: Path) -> None:
    """As it is served: with the tag's own parameters it may do so, and in torch not."""
    client, listener = FakeClient(), Listener()
    answer = client.chat

    def alike(model: str, messages: Any, *, options: Mapping[str, object]) -> Any:
        given = answer(model, messages, options=options)
        if given is not None and model == TAGS["student"]:
            given.text, given.done_reason = "Buy it!", "stop"
        return given

    client.chat = alike  # type: ignore[method-assign]
    evaluate_served(
        TAGS,
        corpus,
        SETTINGS,
        REPLY,
        client=client,
        out_dir=tmp_path / "served",
        reporter=listener,
    )
    (warning,) = [note for note in listener.notes if note.startswith("student answers")]
    assert warning.startswith("student answers 70 of 70 texts with 'Buy it!': it tells little")


def test_a_missing_tag_is_named(corpus: Corpus, tmp_path: Path) -> None:
    """A tag that the daemon lacks is an error before anything is asked."""
    client = FakeClient()
    with pytest.raises(ModelNotFoundError, match="'gone'"):
        evaluate_served(
            {"student": "gone"}, corpus, SETTINGS, TASK, client=client, out_dir=tmp_path / "served"
        )
    assert not client.asked
