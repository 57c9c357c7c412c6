"""A teacher in the daemon, or behind an API, that is offered tools and calls some."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes.daemon import Asked, FakeDaemon, Turn
from fakes.formats import source_of
from fakes.models import build_tiny_model, build_tiny_tokenizer
from fakes.tool_chats import LIT, TOOLS, called, example
from fakes.trainable import commit, corpus_of

from ollama_bridge.client.openai_api import OpenAIClient, chat_completion, read_completion
from ollama_bridge.client.values import ToolCall
from ollama_bridge.errors import ReplyInvalidError
from ollama_bridge.examples import Call, Example, Message, read_examples
from ollama_bridge.models.load import save_checkpoint
from ollama_bridge.recipe.config import SoftLabelsSection, TeacherSection
from ollama_bridge.storage.artifacts import Checkpoint, Corpus
from ollama_bridge.teacher.daemon import write_answers
from ollama_bridge.teacher.daemon_labels import label_by_daemon
from ollama_bridge.teacher.respondent import in_daemons

LAMP = called(room="cellar", on=True)
SETTINGS = TeacherSection(
    model="ollama:m", answers="daemon", soft_labels="daemon", score="asked", in_flight=1
)


def calls(asked: Asked) -> Turn:
    """Calls the lamp, another tool for ``other``, or none; of a raw prompt says a token."""
    if asked.path != "/api/chat":
        top = {"token": "It", "logprob": -0.5}
        return Turn(pieces=["It"], logprobs=[[{**top, "top_logprobs": [top]}]])
    said = asked.json["messages"][-1]
    if said["content"] == "other":
        return Turn(pieces=[], tool_calls=[("unknown", {})])
    if said["role"] == "tool":
        return Turn(pieces=["It is lit."])
    arguments = {"room": "cellar", "on": True}
    if said["content"] == "nested":
        arguments |= {"at": {"z": 1.0, "a": 2}}
    return Turn(pieces=[], tool_calls=[("set_lamp", arguments)])


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with FakeDaemon(script=calls) as running:
        yield running


def asks(name: str) -> Example:
    return example(Message("user", name), id_=name)


def written(corpus: Corpus, daemon: FakeDaemon, folder: Path) -> Corpus:
    respondent = in_daemons("m", [daemon.host])
    return write_answers(corpus, SETTINGS, respondent=respondent, out_dir=folder / "answers")


def test_a_teachers_calls_are_learnt(daemon: FakeDaemon, tmp_path: Path) -> None:
    """It is offered the tools; its calls become the answer, those of unknown tools do not."""
    waits = example(*LIT.messages[:3], id_="waits")
    splits = {
        "train": [asks("train"), asks("other"), asks("nested"), waits],
        "validation": [LIT],
        "test": [asks("test")],
    }
    corpus = corpus_of(tmp_path / "corpus", splits, facts={"with_tools": 5})
    answered = written(corpus, daemon, tmp_path)
    assert all(body["tools"] == list(TOOLS) for body in daemon.questions)
    train = {one.id: one for one in read_examples(answered.split_path("train"))}
    assert set(train) == {"train", "nested", "waits"}
    (made,) = train["nested"].messages[-1].calls  # in the order in which data have it
    assert json.dumps(made.arguments) == '{"at": {"a": 2, "z": 1}, "on": true, "room": "cellar"}'
    assert train["train"].messages[-1] == LAMP  # without the id, which is another each time
    assert train["waits"].messages[-1] == LIT.messages[-1]
    card = json.loads((answered.path / "card.json").read_text())
    assert card["outcomes"]["train"] == {"calls of tools that are not offered": 1, "kept": 3}
    assert answered.manifest.facts["with_tools"] == 5


def test_calls_have_hard_labels_and_texts_what_is_asked(daemon: FakeDaemon, tmp_path: Path) -> None:
    """A daemon tells no tokens of a call; what it is asked about a text it is asked with tools."""

    def fill(folder: Path) -> None:
        tokenizer = build_tiny_tokenizer()
        tokenizer.chat_template = source_of("qwen2.5")
        save_checkpoint(build_tiny_model(), tokenizer, folder)

    only_calls = example(*LIT.messages[:2], id_="call")
    corpus = corpus_of(
        tmp_path / "corpus", {"train": [only_calls, LIT], "validation": [LIT], "test": [LIT]}
    )
    labels = label_by_daemon(
        corpus,
        commit(Checkpoint, tmp_path / "student", fill),
        SoftLabelsSection(top_k=4),
        SETTINGS,
        respondent=in_daemons("m", [daemon.host]),
        max_length=2048,
        out_dir=tmp_path / "labels",
    )
    rendered = [one.json for one in daemon.asked if b"_debug_render_only" in one.body]
    assert rendered
    assert all(body["tools"] == list(TOOLS) for body in rendered)
    assert all(body["messages"][-1]["role"] == "tool" for body in rendered)
    origins: Any = labels.facts["tokens_by_origin"]
    assert origins["train"]["hard"] > origins["train"]["scored"] > 0


def test_an_api_gets_tools_and_gives_calls_as_openai_has_them() -> None:
    """Arguments are JSON texts there, and results say of which call they are."""
    two = Message("assistant", "", (*LAMP.calls, Call("clock", {}, "own")))
    results = [Message("tool", "lit", name="set_lamp"), Message("tool", "9:00", (), "clock", "own")]
    messages = [Message("user", "Hi"), two, *results]
    call = chat_completion("big", messages, max_tokens=9, temperature=0, seed=3, tools=TOOLS)
    sent: list[dict[str, Any]] = []
    function = {"name": "set_lamp", "arguments": '{"on": true, "room": "hall"}'}
    asked = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "function": function}],
    }

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return httpx.Response(
            200, json={"choices": [{"message": asked, "finish_reason": "tool_calls"}]}
        )

    async def ask() -> Any:
        transport = httpx.MockTransport(answer)
        async with OpenAIClient("http://127.0.0.1:8000/v1", transport=transport) as client:
            return await client.ask(call)

    reply = asyncio.run(ask())
    assert reply.tool_calls == (ToolCall("set_lamp", {"on": True, "room": "hall"}, "1"),)
    assert sent[0]["tools"] == list(TOOLS)
    _, made, *said = sent[0]["messages"]
    ids = [one["id"] for one in made["tool_calls"]]
    assert ids[1] == "own"
    assert made["tool_calls"][0]["function"]["arguments"] == '{"on": true, "room": "cellar"}'
    assert [one["tool_call_id"] for one in said] == ids
    assert not any("tool_name" in one for one in said)
    turned = [*messages[:2], *results[::-1]]
    turned[1] = replace(two, calls=(*LAMP.calls, Call("clock")))  # without ids, by name
    turned[2] = replace(results[1], call_id="")
    call = chat_completion("big", turned, max_tokens=9, temperature=0, seed=3, tools=TOOLS)
    asyncio.run(ask())
    _, made, *said = sent[1]["messages"]
    ids = [one["id"] for one in made["tool_calls"]]
    assert [one["tool_call_id"] for one in said] == ids[::-1]
    function["arguments"] = "[1]"
    with pytest.raises(ReplyInvalidError, match="no JSON object"):
        read_completion({"choices": [{"message": asked, "finish_reason": "stop"}]}, model="big")
