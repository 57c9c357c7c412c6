"""Scores of calls: read out of what a model wrote, and as a daemon reports them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes.formats import source_of
from fakes.listening import Listener
from fakes.models import build_tiny_model, build_tiny_tokenizer
from fakes.tool_chats import LIT, TOOLS, called, example
from fakes.trainable import commit, corpus_of

from ollama_bridge.client import ModelDetails
from ollama_bridge.errors import DaemonError, RequestRejectedError, RunnerCrashedError
from ollama_bridge.evaluation import run
from ollama_bridge.evaluation.calls import (
    CallReader,
    as_said,
    each_answer,
    given_answer,
    score_calls,
    whole_conversations,
)
from ollama_bridge.evaluation.reply import Answer
from ollama_bridge.evaluation.report import read_markdown
from ollama_bridge.evaluation.run import evaluate
from ollama_bridge.evaluation.served import evaluate_served
from ollama_bridge.examples import Call, Example, Message
from ollama_bridge.models.load import save_checkpoint
from ollama_bridge.recipe.config import EvaluateSection, TaskSection
from ollama_bridge.reporting import Note
from ollama_bridge.storage.artifacts import Checkpoint, Corpus, EvalReport
from ollama_bridge.storage.atomic_files import read_json_lines

TASK = TaskSection(kind="reply", system="")
SETTINGS = EvaluateSection(bootstrap_samples=100, reply_tokens=6)
THANKS = example(Message("user", "Thanks!"), Message("assistant", "Welcome."), id_="line-2")
PLAIN = Example("line-3", (Message("user", "Hi"), Message("assistant", "Ho.")), "line-3")
LAMP = Call("set_lamp", {"on": True, "room": "cellar"})
ASKED = example(LIT.messages[0], called(room="cellar", on=True))


def read(template: str, written: str, given: Example = ASKED) -> dict[str, Any]:
    tokenizer = build_tiny_tokenizer()
    tokenizer.chat_template = source_of(template)
    found: dict[str, Any] = json.loads(CallReader(tokenizer).read(written, given))
    return found


def calls(*calls: Call) -> list[dict[str, Any]]:
    return [{"name": call.name, "arguments": dict(call.arguments)} for call in calls]


def test_every_answer_of_a_conversation_with_tools_is_asked_for() -> None:
    """Of others the last; perplexity is of the whole ones."""
    asked = each_answer([LIT, PLAIN])
    assert [(one.id, len(one.messages)) for one in asked] == [
        ("line-1 answer 1", 2),
        ("line-1", 4),
        ("line-3", 2),
    ]
    assert asked[0].tools == TOOLS
    assert whole_conversations(asked) == [LIT, PLAIN]


HERMES = (
    '<tool_call>\n{"name": "set_lamp", "arguments": {"room": "cellar", "on": true}}\n</tool_call>'
)


@pytest.mark.parametrize(
    ("template", "written", "said", "made"),
    [
        ("qwen2.5", HERMES, "", [LAMP]),
        ("qwen2.5", f"<think>\nhm\n</think>\n\nWait.\n{HERMES}\n{HERMES}", "Wait.", [LAMP, LAMP]),
        ("qwen2.5", HERMES.replace(": ", ":").replace("\n", ""), "", [LAMP]),
        ("qwen2.5", HERMES.replace("set_lamp", "set_light"), None, []),
        ("qwen2.5", HERMES.removesuffix("}}\n</tool_call>"), None, []),
        ("qwen2.5", 'set_lamp {"on": true}', None, []),
        ("qwen2.5", "<tool_call>", None, []),
        ("qwen2.5", "It is lit.", None, []),
        ("qwen3", HERMES, "", [LAMP]),
        (
            "llama3.2",
            '{"name": "set_lamp", "parameters": {"room": "cellar", "on": true}}',
            "",
            [LAMP],
        ),
        ("llama3.2", 'I say {"name": "set_lamp", "parameters": {}}', None, []),
        ("mistral", '[TOOL_CALLS] [{"name": "clock", "arguments": {}}]', "", [Call("clock")]),
        ("granite", '<|tool_call|>[{"name": "clock", "arguments": "{}"}]', "", [Call("clock")]),
        ("gemma2", HERMES, None, []),
    ],
)
def test_calls_are_read_as_ollama_reads_them(
    template: str, written: str, said: str | None, made: list[Call]
) -> None:
    """Behind the tag of the chat template, those of tools that are offered; else it is text."""
    found = read(template, written)
    assert found["calls"] == calls(*made)
    assert found["text"] == (written if said is None else said)


def test_calls_in_openais_form_are_read_as_ollama_reads_them() -> None:
    """A template that writes each as it is given: the function stands in it, behind an id."""
    tokenizer = build_tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for call in m.tool_calls or [] %}"
        "<call>{{ call | tojson }}</call>{% endfor %}</s>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    call = {"id": "x1", "type": "function", "function": {"name": "set_lamp"}}
    for key, given in (("arguments", LAMP.arguments), ("parameters", json.dumps(LAMP.arguments))):
        call["function"] = {"name": "set_lamp", key: given}
        found = json.loads(CallReader(tokenizer).read(f"<call>{json.dumps(call)}</call>", ASKED))
        assert found == {"text": "", "calls": calls(LAMP)}


def test_calls_that_are_no_json_are_known_by_the_given_ones() -> None:
    """Of GLM's form, each argument in a tag: the same text is the same call."""
    tags = "".join(
        f"\n<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>"
        for key, value in (("on", "true"), ("room", "cellar"))
    )
    written = f"<tool_call>set_lamp{tags}\n</tool_call>"
    assert read("glm4", written)["calls"] == calls(LAMP)
    assert read("glm4", written.replace("cellar", "hall"))["calls"] == []


def test_without_tools_an_answer_is_what_was_written() -> None:
    """Also where it looks like a call."""
    tokenizer = build_tiny_tokenizer()
    assert CallReader(tokenizer).read(HERMES, PLAIN) == HERMES
    assert given_answer(PLAIN) == "Ho."


def test_scores() -> None:
    """Order of calls and of keys, and 1.0 for 1, do not matter; a call too many does."""
    lamp = as_said("", [LAMP])
    two = as_said("", [Call("clock"), LAMP])
    given = [lamp, lamp, lamp, two, as_said("Welcome.", []), as_said("No.", [])]
    said = [
        as_said("Sure.", [Call("set_lamp", {"room": "cellar", "on": True})]),
        as_said("", [Call("set_lamp", {"room": "hall", "on": True})]),
        as_said("It is lit.", []),
        as_said("", [LAMP, Call("clock")]),
        as_said("Anything.", []),
        lamp,
    ]
    scores = score_calls(given, said, bootstrap_samples=100)
    assert scores.same is not None
    assert scores.same.value == 2 / 4
    assert scores.names is not None
    assert scores.names.value == 3 / 4
    assert scores.f1 is not None
    # Given: two arguments four times, and an empty object; said: two thrice, and the empty one.
    assert scores.f1.value == pytest.approx(2 * 6 / (9 + 7))
    assert scores.by_argument["set_lamp.on"] == pytest.approx(2 * 3 / (4 + 3))
    assert scores.silent is not None
    assert scores.silent.value == 1 / 2
    assert set(scores.to_dict()) == {
        *("calls_same", "calls_name", "calls_f1", "calls_fields", "no_call")
    }
    assert set(score_calls(given[4:], said[4:], bootstrap_samples=100).to_dict()) == {"no_call"}


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return corpus_of(tmp_path / "corpus", {"test": [LIT, THANKS, PLAIN]})


class FakeClient:
    """Calls the lamp whatever it is asked, where it is offered tools."""

    host = "http://127.0.0.1:11434"

    def __init__(self, *capabilities: str) -> None:
        self.capabilities = capabilities
        self.asked: list[tuple[Any, Any]] = []

    def version(self) -> str:
        return "0.34.4"

    def list(self) -> list[Any]:
        return [SimpleNamespace(name="small:latest", digest="1", size_bytes=100)]

    def show(self, model: str) -> ModelDetails:
        return ModelDetails("", "", "", "", {}, self.capabilities, raw={})

    def ps(self) -> list[Any]:
        return []

    def chat(
        self, model: str, messages: Any, *, options: Mapping[str, object], tools: Any = None
    ) -> Any:
        self.asked.append((messages, tools))
        return SimpleNamespace(
            text="" if tools else "Ho.",
            tool_calls=(LAMP,) if tools else (),
            done_reason="stop",
            prompt_tokens=10,
            generated_tokens=2,
            timings=SimpleNamespace(prompt_s=0.1, generate_s=0.01),
        )


def test_as_served_calls_are_what_the_daemon_reports(corpus: Corpus, tmp_path: Path) -> None:
    """Tools are sent along, and calls and results as Ollama's API has them."""
    client: Any = FakeClient("completion", "tools")
    report = evaluate_served(
        {"student": "small"}, corpus, SETTINGS, TASK, client=client, out_dir=tmp_path / "served"
    )
    student = json.loads(report.report_path.read_text())["models"]["student"]
    assert student["calls_same"]["value"] == student["calls_f1"]["value"] == 1
    assert student["no_call"]["value"] == 0  # of two answers in text
    assert student["empty"] == 0
    offered = {json.dumps(messages): tools for messages, tools in client.asked if tools}
    assert len(offered) == 3
    assert all(tools == list(TOOLS) for tools in offered.values())
    assert any('"tool_name": "set_lamp"' in messages for messages in offered)
    assert "calls as given" in read_markdown(report)
    assert "set_lamp.room" in read_markdown(report)
    said = read_json_lines(report.path / "predictions.jsonl")
    assert [row["id"] for row in said] == ["line-1 answer 1", "line-1", "line-2", "line-3"]
    assert json.loads(said[0]["student"])["calls"] == calls(LAMP)
    asked = len(client.asked)
    again = evaluate_served(
        {"student": "small"}, corpus, SETTINGS, TASK, client=client, out_dir=tmp_path / "served"
    )
    assert (again.path, len(client.asked)) == (report.path, asked)


class Unread(FakeClient):
    """Its calls are none that the daemon's PARSER can read; what offers no tools is answered."""

    def __init__(self, error: DaemonError, *, is_gone: bool = False) -> None:
        super().__init__("completion", "tools")
        self.error, self.is_gone = error, is_gone
        self.unloaded = 0

    def unload(self, _: str) -> None:
        self.unloaded += 1

    def chat(self, model: str, messages: Any, **given: Any) -> Any:
        if given.get("tools") or (self.is_gone and self.unloaded):
            raise self.error
        return super().chat(model, messages, **given)


@pytest.mark.parametrize(
    "error",
    [
        RunnerCrashedError("the daemon failed while answering: EOF", partial_text="Wait."),
        RequestRejectedError("the daemon answered 500: XML syntax error", status_code=500),
    ],
)
def test_calls_that_the_daemon_cannot_read_count_as_wrong(
    error: DaemonError, corpus: Corpus, tmp_path: Path
) -> None:
    """They end no evaluation; an error that is the daemon's own does."""
    heard = Listener()

    def evaluate_by(client: Any) -> EvalReport:
        return evaluate_served(
            {"student": "small"},
            corpus,
            SETTINGS,
            TASK,
            client=client,
            out_dir=tmp_path / "served",
            reporter=heard,
        )

    with pytest.raises(type(error)):
        evaluate_by(Unread(error, is_gone=True))
    report = evaluate_by(Unread(error))
    student = json.loads(report.report_path.read_text())["models"]["student"]
    assert student["calls_same"]["value"] == student["calls_name"]["value"] == 0
    assert student["no_call"]["value"] == 0
    told = [one.message for one in heard.events if isinstance(one, Note)]
    assert any("3 of 4 answers of the student have calls that its PARSER" in one for one in told)


@pytest.mark.parametrize(
    "error",
    [
        RunnerCrashedError("the daemon failed while answering: unexpected EOF"),
        RequestRejectedError("the daemon answered 400: bad request", status_code=400),
    ],
)
def test_a_daemon_that_fails_gives_no_answers(
    error: DaemonError, corpus: Corpus, tmp_path: Path
) -> None:
    """What was answered is kept, and the same command goes on."""
    client: Any = Unread(error)
    with pytest.raises(type(error)):
        evaluate_served(
            {"student": "small"}, corpus, SETTINGS, TASK, client=client, out_dir=tmp_path / "served"
        )
    assert not client.unloaded


def test_a_tag_that_takes_no_tools_is_told_of(corpus: Corpus, tmp_path: Path) -> None:
    """It is asked nothing that offers some; the report is made all the same."""
    client: Any = FakeClient("completion")
    heard = Listener()
    report = evaluate_served(
        {"student": "small"},
        corpus,
        SETTINGS,
        TASK,
        client=client,
        out_dir=tmp_path / "served",
        reporter=heard,
    )
    assert not any(tools for _, tools in client.asked)
    assert "3 questions that offer some count as answered wrong" in str(heard.events)
    student = json.loads(report.report_path.read_text())["models"]["student"]
    assert student["calls_same"]["value"] == 0


def test_in_torch_calls_are_read_from_the_text(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer is asked for behind the tools; the perplexity is of whole conversations."""

    def fill(folder: Path) -> None:
        tokenizer = build_tiny_tokenizer()
        tokenizer.chat_template = source_of("qwen2.5")
        model = build_tiny_model()
        model.config.max_position_embeddings = 4096
        save_checkpoint(model, tokenizer, folder)

    def write(*args: Any, **more: Any) -> list[Answer]:
        assert [one.id for one in args[2]][:2] == ["line-1 answer 1", "line-1"]
        return [Answer(HERMES, 3, ended=True) for _ in args[2]]

    monkeypatch.setattr(run, "write_greedily", write)
    model = commit(Checkpoint, tmp_path / "model", fill)
    heard = Listener()
    report = evaluate(
        {"student": model}, corpus, SETTINGS, TASK, out_dir=tmp_path / "report", reporter=heard
    )
    student = json.loads(report.report_path.read_text())["models"]["student"]
    assert student["calls_same"]["value"] == student["calls_name"]["value"] == 1
    assert student["no_call"]["value"] == 0
    assert student["tokens"] > 0
    assert not [event for event in heard.events if isinstance(event, Note) and "too" in event.text]
