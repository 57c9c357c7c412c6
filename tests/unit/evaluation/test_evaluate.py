"""The stage ``evaluate`` on tiny models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.listening import Listener
from fakes.memory import OUT_OF_MEMORY
from fakes.models import build_tiny_model, build_tiny_tokenizer
from fakes.reasoning import build_reasoner
from fakes.trainable import (
    LABELS,
    SYSTEM,
    commit,
    corpus_of,
    sentiment_examples,
    tiny_base,
    tiny_corpus,
)
from fakes.turn_ends import build_speaker

from ollama_bridge.answer_text import with_thought
from ollama_bridge.encoding.encode import encode
from ollama_bridge.errors import ConfigError, DataError, ModelError
from ollama_bridge.evaluation import run
from ollama_bridge.evaluation.classify import LabelScores, score_labels
from ollama_bridge.evaluation.reply import measure_perplexity, write_greedily
from ollama_bridge.evaluation.report import read_markdown
from ollama_bridge.evaluation.run import ModelScores, evaluate
from ollama_bridge.examples import Example, Message, read_examples, write_examples
from ollama_bridge.models.compute import memory
from ollama_bridge.models.compute.precision import Precision
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.recipe.config import EvaluateSection, TaskSection
from ollama_bridge.reporting import Note, NullReporter, Progress, StageFinished, StageReused
from ollama_bridge.storage.artifacts import Checkpoint

FLOAT32 = Precision(torch.device("cpu"), torch.float32, 1)
TASK = TaskSection(kind="classify", system=SYSTEM, labels=LABELS)
SETTINGS = EvaluateSection(bootstrap_samples=100, reply_tokens=6)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_base(tmp_path_factory.mktemp("base") / "base", layers=2)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_base(tmp_path_factory.mktemp("other") / "other", layers=1, seed=5)


def whole_answer_nll(base: Checkpoint, example: Example) -> float:
    """Float64 and one text at a time: the last answer's negative log-likelihood."""
    tokenizer, model = load_tokenizer(base.path), load_model(base.path, dtype=torch.float64)
    encoded = encode(example, tokenizer)
    before = len(encode_prompt(tokenizer, example))
    with torch.no_grad():
        logits = model(torch.tensor(encoded.input_ids[None, :].astype("int64"))).logits[0]
    log_probs = logits.log_softmax(-1)
    positions = [place for place in encoded.targets if place >= before]
    return -sum(float(log_probs[place - 1, encoded.input_ids[place]]) for place in positions)


def encode_prompt(tokenizer: object, example: Example) -> list[int]:
    turns = [turn.to_dict() for turn in example.prompt]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)  # type: ignore[attr-defined]
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])  # type: ignore[operator]


def with_answer(example: Example, answer: str) -> Example:
    return Example(example.id, (*example.prompt, Message("assistant", answer)), example.group)


def multi_turn(name: str, text: str) -> Example:
    messages = (
        Message("system", SYSTEM),
        Message("user", "food"),
        Message("assistant", "positive"),
        Message("user", text),
        Message("assistant", "negative"),
    )
    return Example(name, messages, name, "negative")


@pytest.mark.parametrize("labels", [("good", "good food", "awful"), ("we hoped", "we hope")])
def test_long_labels_are_scored_whole(base: Checkpoint, labels: tuple[str, ...]) -> None:
    """Labels of several tokens get the log-probability of all of them and of the end token."""
    examples = [*sentiment_examples(5, name="t"), multi_turn("m", "awful service")]
    heard = Listener()
    found = score_labels(
        load_model(base.path),
        load_tokenizer(base.path),
        examples,
        labels,
        precision=FLOAT32,
        stage="s",
        reporter=heard,
    )
    passes = [event for event in heard.events if isinstance(event, Progress)]
    assert len(passes) >= len(labels)
    assert (passes[-1].done, passes[-1].total) == (6 * len(labels), 6 * len(labels))
    for row, example in enumerate(examples):
        for column, label in enumerate(labels):
            expected = -whole_answer_nll(base, with_answer(example, label))
            assert found.log_probs[row, column] == pytest.approx(expected, abs=1e-3)


def test_long_labels_are_chosen_as_greedy_decoding_does(base: Checkpoint) -> None:
    """Token by token among what labels go on with: the likeliest as a whole is often another."""
    tokenizer, model = load_tokenizer(base.path), load_model(base.path)
    labels = ("good", "good food", "goods", "awful service", "awful")
    examples = [*sentiment_examples(20, name="t"), multi_turn("m", "awful service")]
    found = score_labels(
        model, tokenizer, examples, labels, precision=FLOAT32, stage="s", reporter=NullReporter()
    )
    said = []
    for example in examples:
        prompt = encode_prompt(tokenizer, example)
        answers = {}
        for label in labels:
            encoded = encode(with_answer(example, label), tokenizer)
            end = int(encoded.targets[-1]) + 1
            answers[label] = encoded.input_ids[len(prompt) : end].tolist()
        written: list[int] = []
        while written not in answers.values():
            with torch.no_grad():
                last = model(torch.tensor([prompt + written])).logits[0, -1]
            going_on = [ids for ids in answers.values() if begin(ids, written)]
            following = {ids[len(written)] for ids in going_on}
            written.append(max(following, key=lambda token: float(last[token])))
        said.append(next(label for label, ids in answers.items() if ids == written))
    assert found.predictions(labels) == said
    assert said != [labels[place] for place in found.log_probs.argmax(axis=1)]


def begin(ids: Sequence[int], written: Sequence[int]) -> bool:
    """Whether an answer goes on behind what is written."""
    return list(ids[: len(written)]) == list(written) and len(ids) > len(written)


def test_single_tokens_are_read_off_behind_the_prompt(base: Checkpoint) -> None:
    """One-token labels get their log-probability as the first token of the answer."""
    tokenizer, model = load_tokenizer(base.path), load_model(base.path)
    labels = ("a", "b", "c")
    ids = [tokenizer(label, add_special_tokens=False)["input_ids"][0] for label in labels]
    examples = [*sentiment_examples(7, name="t"), multi_turn("m", "awful service")]
    found = score_labels(
        model, tokenizer, examples, labels, precision=FLOAT32, stage="s", reporter=NullReporter()
    )
    says = 0
    for row, example in enumerate(examples):
        prompt = torch.tensor([encode_prompt(tokenizer, example)])
        with torch.no_grad():
            last = model(prompt).logits[0, -1].log_softmax(-1)
        assert found.log_probs[row].tolist() == pytest.approx(last[ids].tolist(), abs=1e-3)
        assert found.predictions(labels)[row] == labels[int(last[ids].argmax())]
        says += int(last.argmax()) in ids
    assert found.says_label == says / len(examples)


@pytest.mark.parametrize("labels", [("positive", "negative"), ("Good food", "Good times")])
def test_what_the_template_writes_before_a_label_begins_none(
    tmp_path: Path, labels: tuple[str, ...]
) -> None:
    """An empty thought is every answer's: whether it is likely says nothing of labels."""
    folder = build_reasoner(tmp_path / "reasoner")
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    torch.manual_seed(0)  # of the new rows
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.requires_grad_(False)
    thought = tokenizer("\n</think>\n\n", add_special_tokens=False)["input_ids"]
    first = {tokenizer(label, add_special_tokens=False)["input_ids"][0] for label in labels}
    model.lm_head.weight[thought[0]] = 0.0
    for token in first:
        model.lm_head.weight[token] *= 30.0
    examples = sentiment_examples(12, name="t")
    found = score_labels(
        model, tokenizer, examples, labels, precision=FLOAT32, stage="s", reporter=NullReporter()
    )
    begins = []
    for example in examples:
        ids = torch.tensor([encode_prompt(tokenizer, example) + thought])
        begins.append(int(model(ids).logits[0, -1].argmax()) in first)
    assert 0 < sum(begins) < len(begins)
    assert found.says_label == sum(begins) / len(begins)


def test_labels_that_are_nearly_as_likely_are_told_apart() -> None:
    """In bfloat16, too: their logits would be one number, and the label named first the answer."""
    tokenizer, model = build_tiny_tokenizer(), build_tiny_model(tied=False).requires_grad_(False)
    labels = ("a", "b")
    first, second = (tokenizer(name, add_special_tokens=False)["input_ids"][0] for name in labels)
    rows = model.lm_head.weight
    rows *= 8.0
    rows[second] = rows[first]
    rows[second, 7] += 0.03125
    model.bfloat16().float()  # the factors are the same in both types
    examples = sentiment_examples(16, name="t")
    said = {}
    for dtype in (torch.float32, torch.bfloat16):
        found = score_labels(
            model,
            tokenizer,
            examples,
            labels,
            precision=replace(FLOAT32, dtype=dtype),
            stage="s",
            reporter=NullReporter(),
        )
        assert (found.log_probs[:, 0] != found.log_probs[:, 1]).all()
        said[dtype] = found.predictions(labels)
    assert set(said[torch.float32]) == set(labels)
    assert said[torch.bfloat16] == said[torch.float32]


@pytest.mark.parametrize("labels", [LABELS, ("a", "b")], ids=["whole", "one token"])
def test_texts_beyond_the_context_count_as_answered_wrong(
    base: Checkpoint, tmp_path: Path, labels: tuple[str, ...]
) -> None:
    """The others get the scores that they get without them; how many there are is told."""
    short = [
        replace(one, label=labels[place % 2])
        for place, one in enumerate(sentiment_examples(4, name="t"))
    ]
    long = replace(multi_turn("long", "awful " * 600), label=labels[0])
    heard = Listener()
    reports = {}
    for name, examples in (("with", [*short[:2], long, *short[2:]]), ("without", short)):
        corpus = corpus_of(tmp_path / name, {"test": examples})
        task = TaskSection(kind="classify", system=SYSTEM, labels=labels)
        reports[name] = evaluate(
            {"student": base},
            corpus,
            SETTINGS,
            task,
            out_dir=tmp_path / f"r-{name}",
            reporter=heard,
        )
    scores = {name: ModelScores.open(tmp_path / f"r-{name}-models" / "student") for name in reports}
    said = [one["prediction"] for one in scores["with"].predictions()]
    assert said[2] == "(other)"
    assert said[:2] + said[3:] == [one["prediction"] for one in scores["without"].predictions()]
    assert (scores["with"].facts["too_long"], scores["without"].facts.get("too_long")) == (1, None)
    (note,) = [note for note in heard.notes if "layers may help" not in note]
    assert note.startswith("1 of 5 test texts are longer than the model's context of 512 tokens")
    assert "(other)" in read_markdown(reports["with"])


def test_perplexity_is_that_of_the_answers(base: Checkpoint) -> None:
    """exp of the mean over the answers' tokens, computed naively in float64."""
    examples = sentiment_examples(5, name="t")
    model, tokenizer = load_model(base.path), load_tokenizer(base.path)
    found = measure_perplexity(model, tokenizer, examples, precision=FLOAT32)
    nll = sum(whole_answer_nll(base, example) for example in examples)
    expected = torch.tensor(nll / found["tokens"]).exp()
    assert found["perplexity"] == pytest.approx(float(expected), rel=1e-3)


def test_greedy_answers_are_those_of_each_prompt_alone(base: Checkpoint) -> None:
    """Batching with padding changes no token; the model's own generate says the same."""
    examples = [*sentiment_examples(6, name="t"), multi_turn("m", "awful service")]
    model, tokenizer = load_model(base.path), load_tokenizer(base.path)
    found = write_greedily(
        model,
        tokenizer,
        examples,
        max_tokens=6,
        precision=FLOAT32,
        stage="s",
        reporter=NullReporter(),
    )
    for answer, example in zip(found, examples, strict=True):
        prompt = torch.tensor([encode_prompt(tokenizer, example)])
        new_ids = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6, do_sample=False
        )[0, prompt.shape[1] :].tolist()
        assert answer.tokens == len(new_ids)
        assert answer.ended == (new_ids[-1] == tokenizer.eos_token_id)
        kept = new_ids[:-1] if answer.ended else new_ids
        assert answer.text == tokenizer.decode(kept).strip()


def test_report_shows_control_and_paired_interval(
    base: Checkpoint, other: Checkpoint, tmp_path: Path
) -> None:
    """Scores of every model with intervals, the paired difference to the control, and ratios."""
    models = {
        "teacher zero-shot": other,
        "teacher tuned": base,
        "student": base,
        "SFT control": other,
    }
    corpus = tiny_corpus(tmp_path / "corpus")
    report = evaluate(models, corpus, SETTINGS, TASK, out_dir=tmp_path / "report")
    data = json.loads(report.report_path.read_text())
    assert data["teacher"] == "teacher tuned"
    assert data["models"]["student"]["agreement"] == 1.0
    assert set(data["differences"]) >= {"student - SFT control", "student - teacher tuned"}
    assert data["student_to_teacher"]["macro_f1"] == 1.0
    text = read_markdown(report)
    assert "SFT control" in text
    assert "student - SFT control" in text
    lines = [
        json.loads(line) for line in (report.path / "predictions.jsonl").read_text().splitlines()
    ]
    assert set(lines[0]) == {"id", "gold", *models}
    assert report.facts["examples"] == 4


def test_a_changed_model_alone_is_scored_again(
    base: Checkpoint, other: Checkpoint, tmp_path: Path
) -> None:
    """Finished models are reused by a run that was killed, and by one with another student."""
    corpus = tiny_corpus(tmp_path / "corpus")
    evaluate({"teacher": base, "student": base}, corpus, SETTINGS, TASK, out_dir=tmp_path / "r")
    heard = Listener()
    models = {"teacher": base, "student": other}
    evaluate(models, corpus, SETTINGS, TASK, out_dir=tmp_path / "r", reporter=heard)
    reused = [event.stage for event in heard.events if isinstance(event, StageReused)]
    finished = [event.stage for event in heard.events if isinstance(event, StageFinished)]
    assert reused == ["evaluate teacher"]
    assert finished == ["evaluate student", "evaluate"]
    assert ModelScores.open(tmp_path / "r-models" / "student").manifest.work.inputs["model"] == (
        other.digest
    )


@pytest.mark.parametrize(("manner", "kept"), [("plain", False), ("instruct", True)])
def test_scores_of_other_tokens_are_not_used_again(
    manner: str, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two answers of a conversation the last one alone was scored, where eos ends it whole."""
    model = commit(Checkpoint, tmp_path / "model", lambda path: build_speaker(manner, path))
    test = [multi_turn(name, "awful service") for name in ("a", "b")]
    corpus = corpus_of(tmp_path / "corpus", {"test": test})
    task, out_dir = TaskSection(kind="reply", system=SYSTEM), tmp_path / "report"
    with monkeypatch.context() as before:
        before.setattr(run, "key_of_ends", lambda *_, **__: {}, raising=False)
        evaluate({"student": model}, corpus, SETTINGS, task, out_dir=out_dir)
    heard = Listener()
    evaluate({"student": model}, corpus, SETTINGS, task, out_dir=out_dir, reporter=heard)
    assert any(isinstance(event, StageReused) for event in heard.events) == kept


def test_the_products_are_cast_once(
    base: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for every batch, beside the float32 ones; the scores are the same to the bit."""
    seen: list[tuple[set[torch.dtype], LabelScores]] = []

    def watched(model: torch.nn.Module, *arguments: Any, **named: Any) -> LabelScores:
        linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
        scores = score_labels(model, *arguments, **named)
        seen.append(({module.weight.dtype for module in linear}, scores))
        return scores

    bfloat16 = replace(FLOAT32, dtype=torch.bfloat16)
    monkeypatch.setattr(run, "choose_precision", lambda: bfloat16)
    monkeypatch.setattr(run, "score_labels", watched)
    corpus = tiny_corpus(tmp_path / "corpus")
    evaluate({"student": base}, corpus, SETTINGS, TASK, out_dir=tmp_path / "once")
    monkeypatch.setattr(run, "freeze_in", lambda model, dtype: None)
    evaluate({"student": base}, corpus, SETTINGS, TASK, out_dir=tmp_path / "always")
    assert [types for types, _ in seen] == [{torch.bfloat16}, {torch.float32}]
    assert (seen[0][1].log_probs == seen[1][1].log_probs).all()
    folders = [tmp_path / f"{name}-models" / "student" for name in ("once", "always")]
    once, always = (ModelScores.open(folder).facts["parameters"] for folder in folders)
    assert once == always  # a tied matrix counts once, though it is cast apart


def test_what_does_not_fit_is_told_before_it_is_loaded(
    base: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system would end the process without a word."""
    monkeypatch.setattr(memory, "free_bytes", lambda _: 1000)
    bfloat16 = Precision(torch.device("cpu"), torch.bfloat16, 1)
    monkeypatch.setattr(run, "choose_precision", lambda: bfloat16)
    corpus = tiny_corpus(tmp_path / "corpus")
    with pytest.raises(ModelError, match="not enough memory for scoring a model: "):
        evaluate({"student": base}, corpus, SETTINGS, TASK, out_dir=tmp_path / "report")
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("kind", ["classify", "reply"])
@pytest.mark.parametrize("said", OUT_OF_MEMORY, ids=str)
def test_a_device_that_is_out_of_memory_says_what_to_do(
    base: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: RuntimeError,
    kind: str,
) -> None:
    """Behind hours of training, where a traceback helps nobody."""

    def full(layer: torch.nn.Linear, values: torch.Tensor) -> torch.Tensor:
        raise said

    monkeypatch.setattr(torch.nn.Linear, "forward", full)
    task = TASK if kind == "classify" else TaskSection(kind="reply", system=SYSTEM)
    corpus = tiny_corpus(tmp_path / "corpus")
    with pytest.raises(ModelError, match="out of memory") as caught:
        evaluate({"student": base}, corpus, SETTINGS, task, out_dir=tmp_path / "report")
    assert "ollama-bridge ps" in (caught.value.hint or "")


def test_names_that_read_alike_keep_their_own_scores(
    base: Checkpoint, other: Checkpoint, tmp_path: Path
) -> None:
    """Each model is scored by what it said itself, whatever its name has besides a-z and 0-9."""
    task = TaskSection(kind="reply", system=SYSTEM)
    corpus = tiny_corpus(tmp_path / "corpus")
    models = {"v1.2": base, "v1-2": other, "\u0430": base, "\u0431": other, "student": other}
    evaluate(models, corpus, SETTINGS, task, out_dir=tmp_path / "report")
    scores = [
        ModelScores.open(path)
        for path in (tmp_path / "report-models").iterdir()
        if path.name[0] != "."
    ]
    found = sorted(one.manifest.work.inputs["model"] for one in scores)
    assert found == sorted(model.digest for model in models.values())
    assert (tmp_path / "report-models" / "student").is_dir()


def test_replies_are_described(base: Checkpoint, tmp_path: Path) -> None:
    """A reply task gets perplexity and the look of the answers."""
    task = TaskSection(kind="reply", system=SYSTEM)
    corpus = tiny_corpus(tmp_path / "corpus")
    heard = Listener()
    report = evaluate(
        {"student": base}, corpus, SETTINGS, task, out_dir=tmp_path / "report", reporter=heard
    )
    entry = json.loads(report.report_path.read_text())["models"]["student"]
    # A random model does not end: that it was cut is no property of it.
    cut = round(entry["answers"] * (1 - entry["ended"]))
    (warning,) = heard.notes
    assert warning.startswith(f"{cut} of 4 answers were cut at 6 tokens, so whether they end, ")
    assert "--set evaluate.reply_tokens=12 " in warning
    row = next(line for line in read_markdown(report).splitlines() if "limit of an" in line)
    assert [cell.strip() for cell in row.split("|")[1:3]] == ["limit of an answer (tokens)", "6"]
    assert entry["perplexity"] > 1
    assert entry["answers"] == 4
    assert 0 <= entry["ended"] <= 1
    assert "perplexity" in read_markdown(report)


def test_replies_to_texts_beyond_the_context_are_told(base: Checkpoint, tmp_path: Path) -> None:
    """Their perplexity is left out: beside a model of another context it is of other texts."""
    task = TaskSection(kind="reply", system=SYSTEM)
    examples = [*sentiment_examples(3, name="t"), multi_turn("long", "awful " * 600)]
    corpus = corpus_of(tmp_path / "corpus", {"test": examples})
    heard = Listener()
    report = evaluate(
        {"student": base}, corpus, SETTINGS, task, out_dir=tmp_path / "report", reporter=heard
    )
    (note,) = [note for note in heard.notes if "context" in note]
    assert note.startswith("1 of 4 test texts are longer than the model's context of 512 tokens: ")
    row = next(line for line in read_markdown(report).splitlines() if "longer than" in line)
    assert [cell.strip() for cell in row.split("|")[1:3]] == ["texts longer than the context", "1"]


def test_perplexities_of_other_tokens_are_not_held_against_each_other(
    base: Checkpoint, other: Checkpoint, tmp_path: Path
) -> None:
    """A row puts them side by side, though each is a token of its model's own."""
    task, corpus = TaskSection(kind="reply", system=SYSTEM), tiny_corpus(tmp_path / "corpus")

    def build(path: Path) -> None:
        model, tokenizer = load_model(build_reasoner(path)), load_tokenizer(path)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        model.save_pretrained(path)

    thinker = commit(Checkpoint, tmp_path / "model", build)  # its answers begin with a thought

    def below(name: str, student: Checkpoint) -> list[str]:
        models = {"teacher": base, "student": student}
        report = evaluate(models, corpus, SETTINGS, task, out_dir=tmp_path / name)
        lines = read_markdown(report).splitlines()
        return [line for line in lines if line.startswith("Perplexities are not comparable")]

    assert below("same", other) == []
    (line,) = below("others", thinker)
    counts = [
        ModelScores.open(tmp_path / "others-models" / name).facts["tokens"]
        for name in ("teacher", "student")
    ]
    assert "(teacher: {:.0f}, student: {:.0f})".format(*counts) in line


def test_a_label_behind_a_thought_is_not_scored_without_it(
    base: Checkpoint, tmp_path: Path
) -> None:
    """Who learns to think first writes its answers, whatever it would say at once."""
    corpus = tiny_corpus(tmp_path / "corpus")
    at_once = evaluate({"student": base}, corpus, SETTINGS, TASK, out_dir=tmp_path / "at-once")
    assert at_once.facts["student: accuracy"] > 0
    rows = list(read_examples(corpus.split_path("train")))
    rows[-1] = with_answer(rows[-1], with_thought("positive", "They like it."))
    write_examples(corpus.split_path("train"), rows)
    heard = Listener()
    written = evaluate(
        {"student": base}, corpus, SETTINGS, TASK, out_dir=tmp_path / "written", reporter=heard
    )
    assert written.facts["student: accuracy"] == 0  # a random model writes none of the labels
    entry = json.loads(written.report_path.read_text())["models"]["student"]
    assert 1 <= entry["mean_tokens"] <= SETTINGS.reply_tokens
    assert "perplexity" not in entry
    (warning,) = [event for event in heard.events if isinstance(event, Note)]
    cut = round(entry["answers"] * (1 - entry["ended"]))
    assert warning.stage == "evaluate student"
    assert f"{cut} of 4 answers were cut at 6 tokens" in warning.message


def test_replies_are_held_against_their_labels(base: Checkpoint, tmp_path: Path) -> None:
    """Of the texts whose right answer is known: the share of answers that say it."""
    task = TaskSection(kind="reply", system=SYSTEM)
    corpus = tiny_corpus(tmp_path / "corpus")
    evaluate({"student": base}, corpus, SETTINGS, task, out_dir=tmp_path / "first")
    said = ModelScores.open(tmp_path / "first-models" / "student").predictions()
    labels = [said[0]["prediction"], "nothing of the kind", None, None]
    examples = [
        replace(one, label=label)
        for one, label in zip(read_examples(corpus.split_path("test")), labels, strict=True)
    ]
    known = corpus_of(tmp_path / "known", {"test": examples})
    report = evaluate({"student": base}, known, SETTINGS, task, out_dir=tmp_path / "report")
    entry = json.loads(report.report_path.read_text())["models"]["student"]
    assert entry["accuracy"]["value"] == 0.5
    assert "accuracy" in read_markdown(report)


def test_nothing_to_score_is_an_error(base: Checkpoint, tmp_path: Path) -> None:
    """No models, no answers, or texts beyond the context are named."""
    corpus = tiny_corpus(tmp_path / "corpus")
    with pytest.raises(ConfigError):
        evaluate({}, corpus, SETTINGS, TASK, out_dir=tmp_path / "report")
    asked = Example("a", (Message("user", "hi"),), "a")
    unanswered = corpus_of(tmp_path / "open", {"test": [asked]})
    with pytest.raises(DataError, match="no example with an answer"):
        evaluate({"student": base}, unanswered, SETTINGS, TASK, out_dir=tmp_path / "r1")
    long = multi_turn("long", "awful " * 600)
    endless = corpus_of(tmp_path / "long", {"test": [long]})
    with pytest.raises(DataError, match="512 tokens"):
        evaluate({"student": base}, endless, SETTINGS, TASK, out_dir=tmp_path / "r2")


def test_a_model_that_says_one_label_to_all_texts_is_told(
    base: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its accuracy may be that of a model that reads them; where all texts are of one label, none.

    A model that tells some apart is not named.
    """
    corpus = tiny_corpus(tmp_path / "corpus")
    examples = list(read_examples(corpus.split_path("test")))
    gold = [str(example.label) for example in examples]
    assert len(set(gold)) == 2
    said = {"student": ["negative"] * len(gold), "teacher": gold}

    def answer(examinee: Any, examples: Sequence[Example], task: TaskSection) -> Any:
        assert len(examples) == len(gold)
        return said[examinee.stage.rpartition(" ")[2]], {"texts_per_s": 1.0, "says_label": 1.0}

    monkeypatch.setattr(run._Examinee, "choose_labels", answer)
    heard, models = Listener(), {"teacher": base, "student": base}
    evaluate(models, corpus, SETTINGS, TASK, out_dir=tmp_path / "report", reporter=heard)
    (warning,) = [
        event.message
        for event in heard.events
        if isinstance(event, Note) and "tells nothing apart" in event.message
    ]
    assert warning.startswith(f"student says 'negative' to all {len(gold)} texts")
