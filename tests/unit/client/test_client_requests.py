"""What may be asked, in which forms, and what is refused before anything is sent."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
from fakes.daemon import Asked, FakeDaemon, Turn
from fakes.either_client import opened
from pydantic import BaseModel

from ollama_bridge import client as clients
from ollama_bridge.client import ChatRequest, Client, GenerateRequest, Timeouts
from ollama_bridge.client.answers.demands import Known
from ollama_bridge.client.requests import message_list
from ollama_bridge.errors import (
    ConfigError,
    ContextOverflowError,
    ModelNotFoundError,
    ReplyInvalidError,
    UnsupportedFeatureError,
)
from ollama_bridge.option_kinds import OPTION_KINDS

PNG = b"\x89PNG" + bytes(40)
TURNS = [{"role": "user", "content": "hi"}]
GOOD = {"a whole number": 2, "a number": 0.5, "true or false": True, "texts": ["x"]}


@pytest.mark.parametrize(
    ("value", "same"),
    [
        (
            ChatRequest(model="m", messages="hi", system="S", think="high", shift=True),
            {
                "model": "m",
                "messages": [{"role": "system", "content": "S"}, *TURNS],
                "think": "high",
                "shift": True,
                "stream": False,
                "tools": None,
            },
        ),
        (
            GenerateRequest(model="m", prompt="hi", raw=True, options={"seed": 1}, keep_alive="5m"),
            {
                "model": "m",
                "prompt": "hi",
                "raw": True,
                "options": {"seed": 1},
                "keep_alive": "5m",
            },
        ),
    ],
    ids=["chat", "generate"],
)
def test_a_request_is_a_value_or_an_object_of_the_api(
    fake_daemon: FakeDaemon, ask: Any, value: Any, same: dict[str, Any]
) -> None:
    """Both are sent alike, whether pieces or a whole reply are wanted."""
    assert ask(fake_daemon.host, "ask", value).text == "Hello!"
    assert ask(fake_daemon.host, "ask", same).text == "Hello!"
    assert ask(fake_daemon.host, "events", same)[-1].reply.text == "Hello!"
    first, *others = fake_daemon.questions
    assert others == [first, first]
    assert first["stream"] is True


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        ({"model": "m", "messages": TURNS, "tool_choice": "x"}, "'tool_choice'"),
        ({"model": "m", "prompt": "hi", "max_tokens": 5}, "'max_tokens'"),
        ({"model": "m", "prompt": "hi", "context": [1, 2]}, "has a context"),
        ({"model": "m", "messages": [ollama.Image(value="no.png")]}, "Image cannot be written"),
        ("a prompt", "a request must be a dict or a request object, not str"),
        ({"model": "m", "prompt": 5}, "prompt is of type int"),
        ({"model": "m", "prompt": "hi", "options": "fast"}, "options are of type str"),
        ({"model": "m", "prompt": "hi", "options": {5: 1}}, "unknown option 5"),
        ({"model": "m", "prompt": "hi", "options": {"typical_p": 0.5}}, "Ollama no longer has"),
        ({"model": "m", "prompt": "hi", "options": {"temperature": 10**400}}, "'temperature' is"),
        ({"model": "m", "prompt": "hi", "top_logprobs": "5"}, "top_logprobs is of type str"),
        ({"model": "m", "prompt": "hi", "think": 5}, "think is of type int"),
        ({"model": "m", "prompt": "hi", "keep_alive": []}, "keep_alive is of type list"),
        ({"model": "m", "prompt": "hi", "truncate": "no"}, "truncate is of type str"),
        ({"model": "m", "prompt": "hi", "images": 5}, "images is of type int"),
        ({"model": "m", "prompt": "hi", "images": "a.png"}, "images is of type str"),
        ({"model": "m", "prompt": "hi", "images": [5]}, "an image is of type int"),
        (
            {"model": "m", "messages": TURNS, "tools": [5]},
            "a tool is neither a function nor an object",
        ),
        ({"model": "m", "messages": [TURNS[0] | {"images": 5}]}, "images is of type int"),
        ({"model": "m", "messages": [{"role": "user", "contents": "hi"}]}, "field 'contents'"),
        ({"model": "m", "messages": [{"role": "user"}]}, "message 0 has no text"),
        ({"model": "m", "messages": [{"role": "user", "content": None}]}, "message 0 has no text"),
        ({"model": "m", "messages": [{"role": "user", "content": [{}]}]}, "message 0 has no text"),
        ({"model": "m"}, "no 'prompt'"),
        ({"messages": TURNS}, "no 'model'"),
        ({"model": "m", "prompt": "hi", "think": "true"}, "think is 'true'"),
        ({"model": "m", "prompt": "hi", "format": "yaml"}, "format is 'yaml'"),
        ({"model": "m", "prompt": "hi", "top_logprobs": 21}, "top_logprobs is 21"),
        ({"model": " ", "prompt": "hi"}, "no model"),
        ({"model": "m", "prompt": "hi", "images": ["no-such.png"]}, "no-such.png"),
        ({"model": "m", "prompt": "hi", "images": ["a\0b"]}, "image"),
    ],
)
def test_a_wrong_request_is_refused_before_it_is_sent(
    fake_daemon: FakeDaemon, ask: Any, request_: Any, problem: str
) -> None:
    """An unknown or missing field, or a value that Ollama does not take."""
    with pytest.raises(ConfigError, match=problem) as caught:
        ask(fake_daemon.host, "ask", request_)
    assert caught.value.hint
    assert fake_daemon.asked == []


@pytest.mark.parametrize("said", [b"Hi", {"role": "user", "content": "Hi"}])
def test_what_is_no_list_of_messages_is_told(said: Any) -> None:
    """One message, or bytes: the hint writes a list."""
    with pytest.raises(ConfigError, match=r"must be a text or a list, not (bytes|dict)") as caught:
        message_list(said)
    assert str(caught.value.hint).startswith("write [{")


def test_a_message_may_have_calls_or_images_instead_of_a_text(
    fake_daemon: FakeDaemon, ask: Any
) -> None:
    """As other clients leave them: what is null is left out."""
    call = {"function": {"name": "weather", "arguments": {}}}
    messages = [
        {"role": "user", "images": [b"\x89PNG"]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "7", "tool_name": "weather", "tool_call_id": "1"},
    ]
    ask(fake_daemon.host, "chat", "m", messages)
    sent = fake_daemon.questions[0]["messages"]
    assert sent == [
        {"role": "user", "images": ["iVBORw=="]},
        {"role": "assistant", "tool_calls": [call]},
        messages[2],
    ]


@pytest.mark.parametrize("name", sorted(OPTION_KINDS))
def test_options_have_kinds(fake_daemon: FakeDaemon, ask: Any, name: str) -> None:
    """A value of the option's kind is sent; of any other it is refused, with what belongs there."""
    good = GOOD[OPTION_KINDS[name]]
    ask(fake_daemon.host, "generate", "m", "hi", options={name: good})
    assert fake_daemon.questions[0]["options"][name] == good
    for bad in ("hot", [1], {}):
        with pytest.raises(ConfigError, match=OPTION_KINDS[name]):
            ask(fake_daemon.host, "generate", "m", "hi", options={name: bad})
    assert len(fake_daemon.questions) == 1


def test_images_come_as_bytes_paths_and_base64(
    fake_daemon: FakeDaemon, ask: Any, tmp_path: Path
) -> None:
    """All of them leave as base64."""
    image = bytes(range(200))
    path = tmp_path / "a.png"
    path.write_bytes(image)
    encoded = base64.b64encode(image).decode()
    ask(fake_daemon.host, "generate", "m", "hi", images=[image, path, str(path), encoded])
    assert fake_daemon.questions[0]["images"] == [encoded] * 4


def test_texts_become_vectors(fake_daemon: FakeDaemon, ask: Any) -> None:
    """One text or many; nothing is cut unless that was allowed."""
    one = ask(fake_daemon.host, "embed", "m", "a b")
    assert (one.vectors, one.prompt_tokens, one.cut) == (((2.0, 1.0),), 2, ())
    ask(fake_daemon.host, "embed", "m", ["a"], dimensions=2, keep_alive=0, options={"num_ctx": 8})
    assert fake_daemon.asked[-1].json == {
        "model": "m",
        "input": ["a"],
        "truncate": False,
        "dimensions": 2,
        "keep_alive": 0,
        "options": {"num_ctx": 8},
    }
    with pytest.raises(ConfigError, match="empty"):
        ask(fake_daemon.host, "embed", "m", ["a", ""])


def test_a_text_that_is_too_long_is_an_error_or_named(fake_daemon: FakeDaemon, ask: Any) -> None:
    """Cut only where it was allowed, and then the texts that were are told."""
    fake_daemon.context_length = 3
    texts = ["a", "a b c d e", "a b", "a b c d"]
    with pytest.raises(ContextOverflowError):
        ask(fake_daemon.host, "embed", "m", texts)
    found = ask(fake_daemon.host, "embed", "m", texts, truncate=True)
    assert [vector[0] for vector in found.vectors] == [1, 3, 2, 3]
    assert found.cut == (1, 3)
    assert found.prompt_tokens == 9
    assert ask(fake_daemon.host, "embed", "m", texts[:1], truncate=True).cut == ()


@pytest.mark.parametrize(
    "embeddings", [[], [[1.0], [2.0]], [["x"]], [[float("1e400")]], "text", [7], None]
)
def test_vectors_that_are_none_are_refused(
    fake_daemon: FakeDaemon, ask: Any, embeddings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One vector of finite numbers a text, or an error."""
    monkeypatch.setattr(fake_daemon, "embed", lambda body: (200, [{"embeddings": embeddings}]))
    with pytest.raises(ReplyInvalidError):
        ask(fake_daemon.host, "embed", "m", "hi")


def test_a_model_is_loaded_for_the_questions_that_follow(fake_daemon: FakeDaemon, ask: Any) -> None:
    """With their options, since others would load it anew."""
    ask(fake_daemon.host, "load", "m", options={"num_ctx": 64}, keep_alive="1h")
    assert fake_daemon.asked[-1].json == {
        "model": "m",
        "stream": False,
        "options": {"num_ctx": 64},
        "shift": False,
        "keep_alive": "1h",
    }


def weather(city: str) -> str:
    """Look up the weather.

    Args:
        city: Where.
    """
    return city


def test_what_ollama_python_takes_is_taken(fake_daemon: FakeDaemon, ask: Any) -> None:
    """Functions, its own types, an empty format; and what they hold arrives."""
    picture = ollama.Image(value=PNG)
    said = ollama.Message(role="user", content="hi", images=[picture])
    described = ollama.Tool(
        function=ollama.Tool.Function(
            name="rain", parameters=ollama.Tool.Function.Parameters(type="object", properties={})
        )
    )
    request = {
        "model": "m",
        "messages": [said],
        "tools": [weather, described],
        "options": ollama.Options(temperature=0.5),
        "format": "",
        "stream": True,
    }
    assert ask(fake_daemon.host, "ask", request).text == "Hello!"
    ask(fake_daemon.host, "chat", "m", [said], tools=[weather, described])
    for body in fake_daemon.questions:
        assert [tool["function"]["name"] for tool in body["tools"]] == ["weather", "rain"]
        assert body["tools"][0]["function"]["parameters"]["required"] == ["city"]
        (message,) = body["messages"]
        assert message["content"] == "hi"
        assert base64.b64decode(message["images"][0]) == PNG
        assert "format" not in body
    assert fake_daemon.questions[0]["options"]["temperature"] == 0.5


def test_texts_that_are_too_long_are_found_by_halves(fake_daemon: FakeDaemon, ask: Any) -> None:
    """The others are read together; vectors stay in the order of the texts."""
    fake_daemon.context_length = 50
    texts = ["word " * (80 if number in (5, 40) else number + 1) for number in range(48)]
    found = ask(fake_daemon.host, "embed", "m", texts, truncate=True)
    assert found.cut == (5, 40)
    counts = [50.0 if number in (5, 40) else number + 1.0 for number in range(48)]
    assert [vector[0] for vector in found.vectors] == counts
    assert found.prompt_tokens == sum(counts)
    assert len(fake_daemon.asked) < 30  # of 48 texts, each alone, more than 50
    assert sum(body["truncate"] for body in (one.json for one in fake_daemon.asked)) == 2


MANY = ["word " * (number % 7 + 1) for number in range(300)]


def test_many_texts_are_several_requests(fake_daemon: FakeDaemon, ask: Any) -> None:
    """Each within its own limits: all that the daemon had read was lost with the first of them."""
    turn = fake_daemon.turn

    def slowly(asked: Asked) -> Turn:
        fake_daemon.closing.wait(0.7)
        return turn(asked)

    fake_daemon.turn = slowly  # type: ignore[method-assign]
    limits = Timeouts(connect_s=5.0, total_s=2.0)  # all three take longer
    found = ask(fake_daemon.host, "embed", "m", MANY, timeouts=limits)
    assert [vector[0] for vector in found.vectors] == [number % 7 + 1.0 for number in range(300)]
    assert found.prompt_tokens == sum(vector[0] for vector in found.vectors)
    assert [len(asked.json["input"]) for asked in fake_daemon.asked] == [128, 128, 44]


def test_long_texts_are_fewer_at_a_time(fake_daemon: FakeDaemon, ask: Any) -> None:
    """One that is longer than a request may be is asked about alone."""
    sizes = (30_000, 2_700, 1_000, 70_000, 10, 10)
    parts = ask(fake_daemon.host, "embed_parts", "m", ["x" * size for size in sizes])
    asked = [[len(text) for text in one.json["input"]] for one in fake_daemon.asked]
    assert asked == [[30_000, 2_700], [1_000], [70_000], [10, 10]]
    assert [len(part.vectors) for part in parts] == [2, 1, 1, 2]


def test_texts_that_are_too_long_have_their_places_among_all(
    fake_daemon: FakeDaemon, ask: Any
) -> None:
    """Whatever request they were in; and the daemon's times are those of all of them."""
    fake_daemon.context_length = 50
    embed = fake_daemon.embed

    def timed(body: Any) -> Any:
        status, (reply, *_) = embed(body)
        return status, [{**reply, "total_duration": 2 * 10**9, "load_duration": 10**9}]

    fake_daemon.embed = timed  # type: ignore[method-assign]
    texts = [
        text if number not in (5, 130, 299) else "word " * 80 for number, text in enumerate(MANY)
    ]
    found = ask(fake_daemon.host, "embed", "m", texts, truncate=True)
    assert found.cut == (5, 130, 299)
    assert [found.vectors[place][0] for place in (4, 5, 130, 131, 299)] == [5, 50, 50, 6, 50]
    answered = [one for one in fake_daemon.asked if one.json["truncate"]]
    assert len(answered) == 3
    assert found.timings.total_s == 2 * found.timings.load_s > 6
    parts = ask(fake_daemon.host, "embed_parts", "m", texts, truncate=True)
    assert [part.cut for part in parts] == [(5,), (2,), (43,)]


def test_a_model_that_is_to_leave_reads_all_texts_first(fake_daemon: FakeDaemon, ask: Any) -> None:
    """It would be loaded anew for each request."""
    for alive, first in ((0, "1m"), ("0s", "1m"), ("30m", "30m"), (None, None)):
        fake_daemon.asked.clear()
        ask(fake_daemon.host, "embed", "m", MANY, keep_alive=alive)
        told = [asked.json.get("keep_alive") for asked in fake_daemon.asked]
        assert told == [first, first, alive]


def test_a_model_that_is_replaced_between_texts_is_told(fake_daemon: FakeDaemon, ask: Any) -> None:
    """At least where its vectors are of another length."""
    lengths = iter([2, 2, 3])

    def embed(body: Any) -> Any:
        length = next(lengths)
        return 200, [{"embeddings": [[1.0] * length for _ in body["input"]]}]

    fake_daemon.embed = embed  # type: ignore[method-assign]
    with pytest.raises(ReplyInvalidError, match="several lengths"):
        ask(fake_daemon.host, "embed", "m", MANY)


@pytest.mark.parametrize(
    ("dimensions", "words", "hint", "asked"),
    [
        (1024, "1024 dimensions were asked for, but the vectors have 2", "ask for 2 at most", 1),
        (1, "1 dimensions were asked for, but the vectors have 2", "use a newer Ollama", 1),
        (0, "dimensions is 0", "1 or more, or leave it out", 0),
        (-5, "dimensions is -5", "1 or more, or leave it out", 0),
    ],
)
def test_vectors_have_the_length_that_was_asked_for(
    fake_daemon: FakeDaemon, ask: Any, dimensions: int, words: str, hint: str, asked: int
) -> None:
    """Ollama cuts where it can, and says nothing where it cannot."""
    with pytest.raises((UnsupportedFeatureError, ConfigError), match=words) as caught:
        ask(fake_daemon.host, "embed", "m", ["a"], dimensions=dimensions)
    assert caught.value.hint == hint
    assert len(fake_daemon.asked) == asked
    assert len(ask(fake_daemon.host, "embed", "m", ["a"], dimensions=2).vectors[0]) == 2


LEVELS = {"thinking": {"values": [False, "low", "xhigh"], "default": "xhigh"}}


def test_levels_of_thinking_are_the_model_s_own(fake_daemon: FakeDaemon, ask: Any) -> None:
    """Of one that it lacks the daemon would take its default, without a word."""
    fake_daemon.shown = {**fake_daemon.shown, **LEVELS}
    assert ask(fake_daemon.host, "chat", "m", "hi", think="xhigh").text == "Hello!"
    assert fake_daemon.questions[-1]["think"] == "xhigh"
    with pytest.raises(UnsupportedFeatureError, match="'high'") as caught:
        ask(fake_daemon.host, "chat", "m", "hi", think="high")
    assert caught.value.hint == "think with one of its levels: low, xhigh"
    assert len(fake_daemon.questions) == 1
    ask(fake_daemon.host, "chat", "m", "hi", think=True)


def test_a_level_that_could_not_be_looked_up_is_looked_up_again(client_kind: str) -> None:
    """A daemon that was busy just then: the question is asked, and the next one is told."""
    shows = iter([httpx.Response(503, json={"error": "busy"})])

    def gateway(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/show":
            return next(shows, None) or httpx.Response(200, json={"modelfile": "FROM x", **LEVELS})
        return httpx.Response(200, json={"message": {"content": "Hello!"}, "done": True})

    transport = httpx.MockTransport(gateway)

    with opened(client_kind, clients, "127.0.0.1:9", transport=transport) as client:
        assert client.chat("m", "hi", think="hihg").text == "Hello!"
        with pytest.raises(UnsupportedFeatureError, match="'hihg'"):
            client.chat("m", "hi", think="hihg")


def test_the_levels_of_a_model_that_comes_are_its_own(
    fake_daemon: FakeDaemon, client_kind: str
) -> None:
    """That it was not there, or was another one, says nothing of what was pulled, or made anew."""
    fake_daemon.shown = {**fake_daemon.shown, **LEVELS}
    fewer = {"thinking": {"values": [False, "low"], "default": "low"}}

    with opened(client_kind, clients, fake_daemon.host) as client:
        with pytest.raises(ModelNotFoundError):
            client.chat("new", "hi", think="high")
        fake_daemon.models["new:latest"] = "e" * 64
        with pytest.raises(UnsupportedFeatureError, match="'high'"):
            client.chat("new", "hi", think="high")
        assert client.chat("m", "hi", think="xhigh").text == "Hello!"
        client.create({"model": "m", "from": "m"})
        fake_daemon.shown = {**fake_daemon.shown, **fewer}
        with pytest.raises(UnsupportedFeatureError, match="'xhigh'"):
            client.chat("m", "hi", think="xhigh")


def test_what_was_looked_at_is_known_for_a_while() -> None:
    """In a service one client asks for days, and somebody else makes models."""
    clock = [0.0]
    known = Known(lambda: clock[0])
    known.add(("m", 4096))
    clock[0] = 299.0
    assert ("m", 4096) in known
    assert ("m", "high") not in known
    clock[0] = 301.0
    assert ("m", 4096) not in known


@pytest.mark.parametrize(("status", "looks"), [(401, 2), (403, 1), (503, 2)])
def test_what_is_never_given_out_is_not_looked_up_again(
    client_kind: str, status: int, looks: int
) -> None:
    """A gateway that lets questions through alone, unlike one that is busy."""
    paths: list[str] = []

    def gateway(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.path)
        if request.url.path == "/api/show":
            return httpx.Response(status, json={"error": "not now"})
        return httpx.Response(200, json={"message": {"content": "Hello!"}, "done": True})

    transport = httpx.MockTransport(gateway)

    with opened(client_kind, clients, "127.0.0.1:9", transport=transport) as client:
        for _ in range(2):
            client.chat("m", "hi", think="high")
    assert paths.count("/api/show") == looks


def test_where_no_levels_are_told_the_daemon_decides(fake_daemon: FakeDaemon) -> None:
    """It is asked for them once a model and level."""
    with Client(fake_daemon.host) as client:
        for _ in range(2):
            client.chat("m", "hi", think="high")
    assert [asked.path for asked in fake_daemon.asked].count("/api/show") == 1


def test_a_class_as_format_is_told_its_ways() -> None:
    """It is what other libraries take."""

    class Verdict(BaseModel):
        good: bool

    with pytest.raises(ConfigError) as caught, Client("127.0.0.1:9") as client:
        client.chat("m", "hi", format=Verdict)  # type: ignore[arg-type]
    hint = "format=Verdict.model_json_schema(), or client.parse(..., Verdict)"
    assert caught.value.hint == hint
