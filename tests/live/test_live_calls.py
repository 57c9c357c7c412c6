"""From a file of calls to a tag that calls: learnt, scored, and reported by a real daemon."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes.formats import source_of
from fakes.models import build_tiny_model, build_tiny_tokenizer
from fakes.private_daemon import PrivateDaemon
from fakes.tool_chats import SET_LAMP, TOOLS, lines

from ollama_bridge.client import Client
from ollama_bridge.evaluation.report import STUDENT
from ollama_bridge.examples import Call, Message, read_examples
from ollama_bridge.models.load import save_checkpoint
from ollama_bridge.pipeline import BuildResult, build
from ollama_bridge.recipe.config import TuneSection
from ollama_bridge.recipe.loading import load_recipe
from ollama_bridge.storage.artifacts import EvalReport

pytestmark = pytest.mark.live

_VOCABULARY = 576
TRAIN = "corpus/train.jsonl"


def base(folder: Path) -> Path:
    """A random checkpoint in Qwen 2.5's format, whose tokens are the words of the file."""
    template = source_of("qwen2.5")
    texts = [template] * 3
    for line in lines():
        texts.append(json.dumps(line))
        for turn in line["messages"]:
            texts += [turn.get("content") or ""] * 2
            calls = (call["function"] for call in turn.get("tool_calls", ()))
            texts += [json.dumps(call["arguments"]) for call in calls] * 2
    tokenizer = build_tiny_tokenizer(vocab_size=_VOCABULARY, texts=texts)
    tokenizer.chat_template = template
    model = build_tiny_model(vocab_size=_VOCABULARY)
    model.config.max_position_embeddings = 2048
    save_checkpoint(model, tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def built(daemon: PrivateDaemon, tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    """What ``build chat --data calls.jsonl`` makes of a tiny model, all layers kept."""
    folder = tmp_path_factory.mktemp("calls")
    data = folder / "calls.jsonl"
    data.write_text("\n".join(map(json.dumps, lines())), encoding="utf-8")
    recipe = load_recipe(
        "chat",
        overrides=[
            f"data.path={data}",
            f"teacher.model={base(folder / 'base')}",
            "student.layers=null",
            "distill.epochs=1",
            "distill.min_steps=null",
            "distill.lr=1e-5",
            "distill.dtype=float32",
            "control.enabled=false",
            "evaluate.reply_tokens=80",
            "evaluate.bootstrap_samples=100",
            "export.tag=live-calls",
            "export.types=[f16]",
        ],
    )
    tune = TuneSection(
        method="full", epochs=70, lr=3e-3, batch_tokens=4096, max_length=2048, dtype="float32"
    )
    teacher = recipe.teacher.model_copy(update={"tune": tune})
    recipe = recipe.model_copy(update={"teacher": teacher})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OLLAMA_BRIDGE_HOME", str(folder / "home"))
        return build(recipe, out_dir=folder / "run", host=daemon.host)


def scores_of(report: EvalReport | None, model: str) -> dict[str, float]:
    assert report is not None
    entry = json.loads(report.report_path.read_text())["models"][model]
    names = ("calls_same", "calls_name", "calls_f1", "no_call")
    return {name: entry[name]["value"] for name in names}


def test_the_tag_calls_as_the_daemon_reports_it(built: BuildResult, daemon: PrivateDaemon) -> None:
    """Its capability is listed, it is proven with tools, and calls what is meant, or nothing."""
    tag = built.models[0].tag
    assert built.models[0].facts["passed"]
    with Client(daemon.host) as client:
        assert "tools" in client.show(tag).capabilities
        learnt = {one.messages[-1].text: one for one in read_examples(built.run_dir / TRAIN)}
        assert len(learnt) == 14  # each lamp on and off, the clock, and thanks
        for example in learnt.values():
            turns = [turn.to_dict() for turn in example.prompt]
            reply = client.chat(tag, turns, tools=list(TOOLS), options={"temperature": 0})
            calls = tuple(Call(one.name, one.arguments) for one in reply.tool_calls)
            assert Message("assistant", reply.text, calls) == example.messages[-1]


def test_scores_in_torch_and_as_served_agree(built: BuildResult) -> None:
    """A random model calls nothing right; what was taught does in nearly all held-out questions."""
    untaught = scores_of(built.report, "teacher zero-shot")
    assert untaught["calls_same"] == 0
    in_torch, served = (scores_of(report, STUDENT) for report in (built.report, built.served))
    assert in_torch["calls_same"] >= 0.7
    assert in_torch["no_call"] == 1
    assert served == pytest.approx(in_torch, abs=0.1)


def test_ollamas_order_of_keys_changes_nothing(built: BuildResult, daemon: PrivateDaemon) -> None:
    """The prompt that is served is the one that was learnt, however a request writes its tools."""
    function = SET_LAMP["function"]
    schema = function["parameters"]
    turned = {
        "required": schema["required"],
        "properties": dict(reversed(schema["properties"].items())),
        "type": "object",
    }
    other = {"function": {**function, "parameters": turned}, "type": "function"}
    with Client(daemon.host) as client:
        tag = built.models[0].tag
        rendered = [client.render(tag, "Hi", tools=[tool]) for tool in (SET_LAMP, other)]
    assert rendered[0] == rendered[1]
    assert json.dumps(SET_LAMP) in rendered[0]
