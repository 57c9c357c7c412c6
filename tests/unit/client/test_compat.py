"""The drop-in: ollama-python's surface, types and exceptions, with our guarantees."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
from fakes.daemon import (
    Asked,
    FakeDaemon,
    Fault,
    Turn,
    hang_up_late_at_first,
    nobody_listens,
)
from fakes.either_client import opened
from pydantic import BaseModel

from ollama_bridge import compat
from ollama_bridge.client import Retries, Timeouts
from ollama_bridge.client.wire.retries import NO_RETRIES
from ollama_bridge.digests import digest_file
from ollama_bridge.errors import (
    ConfigError,
    ContextOverflowError,
    ContextReducedError,
    DaemonTimeoutError,
    ModelNotFoundError,
    RepetitionError,
    RunnerCrashedError,
    StreamBrokenError,
    UnsupportedFeatureError,
)

SHORT = Timeouts(connect_s=5.0, load_s=0.0, first_token_s=0.2, between_tokens_s=0.2, total_s=5.0)

PATIENT = Timeouts(total_s=20.0)

HASTY = {"timeouts": SHORT, "retries": NO_RETRIES}


@pytest.fixture
def ask(client_kind: str) -> Any:
    def ask_once(host: str, method: str, *args: Any, client: Any = None, **kwargs: Any) -> Any:
        with opened(client_kind, compat, host, **(client or {})) as either:
            return getattr(either, method)(*args, **kwargs)

    return ask_once


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with FakeDaemon(models={"m:latest": "d" * 64}) as found:
        found.statuses = [{"status": "working"}, {"status": "success"}]
        yield found


MESSAGES = [{"role": "user", "content": "hi"}]


def test_the_surface_is_ollama_s() -> None:
    """Every public method with the same signature; module functions; types."""
    for ours, theirs in (
        (compat.Client, ollama.Client),
        (compat.AsyncClient, ollama.AsyncClient),
    ):
        for name, method in inspect.getmembers(theirs, inspect.isfunction):
            if not name.startswith("_"):
                assert inspect.signature(getattr(ours, name)) == inspect.signature(method), name
    assert compat.Message is ollama.Message
    assert issubclass(compat.BridgeResponseError, ollama.ResponseError)
    for name in set(ollama.__all__) - set(compat.__all__):
        assert getattr(compat, name) is not None


def test_answers_are_ollama_s_types(daemon: FakeDaemon, ask: Any) -> None:
    """Whole, though they come as a stream inside."""
    daemon.thinking = ["Hm", "m."]
    chat = ask(daemon.host, "chat", "m", MESSAGES)
    assert type(chat) is ollama.ChatResponse
    assert (chat.message.content, chat.message.thinking, chat.done) == ("Hello!", "Hmm.", True)
    assert (chat.eval_count, chat.prompt_eval_count, chat["done_reason"]) == (3, 7, "stop")
    generated = ask(daemon.host, "generate", "m", "hi")
    assert type(generated) is ollama.GenerateResponse
    assert (generated.response, generated.thinking) == ("Hello!", "Hmm.")
    for body in daemon.questions:
        assert (body["stream"], body["truncate"], body["shift"]) == (True, False, False)
        assert "options" not in body or "num_predict" not in body["options"]


def test_streams_are_ollama_s_too(daemon: FakeDaemon, ask: Any) -> None:
    """Part by part."""
    parts = ask(daemon.host, "chat", "m", MESSAGES, stream=True)
    assert [part.message.content for part in parts] == ["Hel", "lo", "!", ""]
    assert all(type(part) is ollama.ChatResponse for part in parts)
    parts = ask(daemon.host, "generate", "m", "hi", stream=True)
    assert "".join(part.response for part in parts) == "Hello!"
    statuses = ask(daemon.host, "pull", "m", stream=True)
    assert [part.status for part in statuses] == ["working", "success"]


def weather(city: str) -> str:
    """Look up the weather.

    Args:
        city: Where.
    """
    return city


class Verdict(BaseModel):
    label: str


def test_arguments_arrive_as_ollama_sends_them(daemon: FakeDaemon, ask: Any) -> None:
    """Tools of functions, formats, images, options of its own type."""
    daemon.script = lambda asked: Turn(pieces=[], tool_calls=[("weather", {"city": "Rome"})])
    reply = ask(
        daemon.host,
        "chat",
        "m",
        [{"role": "user", "content": "hi", "images": [b"\x89PNG"]}],
        tools=[weather],
        format=Verdict.model_json_schema(),
        options=ollama.Options(temperature=0.5, num_predict=-1),
        think="high",
        keep_alive="5m",
    )
    assert reply.message.tool_calls[0].function.arguments == {"city": "Rome"}
    (body,) = daemon.questions
    assert body["tools"][0]["function"]["name"] == "weather"
    assert body["messages"][0]["images"] == ["iVBORw=="]
    assert body["options"] == {"temperature": 0.5, "num_predict": -1}
    assert body["format"]["required"] == ["label"]
    assert (body["think"], body["keep_alive"]) == ("high", "5m")


def test_models_are_managed(daemon: FakeDaemon, ask: Any, tmp_path: Path) -> None:
    """list, show, ps, copy, delete, create, push, blobs."""
    host = daemon.host
    assert ask(host, "list").models[0].model == "m:latest"
    assert ask(host, "show", "m").modelfile == "FROM x"
    assert ask(host, "ps").models[0].name == "m:latest"
    assert ask(host, "copy", "m", "n:1").status == "success"
    assert ask(host, "delete", "n:1").status == "success"
    assert ask(host, "create", "new", from_="m").status == "success"
    assert ask(host, "push", "m").status == "success"
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF")
    assert ask(host, "create_blob", file) == f"sha256:{digest_file(file)}"
    assert list(daemon.blobs.values()) == [b"GGUF"]


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (Fault.NO_DONE, StreamBrokenError),
        (Fault.RESET, StreamBrokenError),
        (Fault.BAD_CHUNK, StreamBrokenError),
        (Fault.ERROR_LINE, RunnerCrashedError),
        (Fault.STALL, DaemonTimeoutError),
        (Fault.SILENT, DaemonTimeoutError),
        (Fault.BUSY, None),
        (Fault.HTML_PAGE, None),
        (Fault.BAD_JSON, None),
        (Fault.NOT_AN_OBJECT, None),
        (Fault.REDIRECT, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_every_fault_is_an_error_that_ollama_s_users_catch(
    daemon: FakeDaemon, ask: Any, fault: Fault, cause: type | None, stream: bool
) -> None:
    """Nothing of httpx or json comes through, and nothing waits for ever."""
    daemon.fault = fault
    patient = {"timeouts": PATIENT, "retries": NO_RETRIES}
    client = HASTY if fault in (Fault.STALL, Fault.SILENT) else patient
    with pytest.raises((ollama.ResponseError, ConnectionError)) as caught:
        ask(daemon.host, "chat", "m", MESSAGES, stream=stream, client=client)
    if cause is not None:
        assert isinstance(caught.value.__cause__, cause)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("method", ["chat", "generate"])
@pytest.mark.parametrize("fault", [Fault.NO_DONE, Fault.RESET, Fault.ERROR_LINE, Fault.STALL])
def test_what_came_of_a_broken_answer_is_kept(
    daemon: FakeDaemon, ask: Any, fault: Fault, method: str, stream: bool
) -> None:
    """The text and the thought."""
    daemon.fault, daemon.thinking = fault, ["Hm", "."]
    question = MESSAGES if method == "chat" else "hi"
    hasty = {"timeouts": Timeouts(between_tokens_s=0.3), "retries": NO_RETRIES}
    with pytest.raises(compat.BridgeResponseError) as caught:
        ask(daemon.host, method, "m", question, stream=stream, client=hasty)
    assert (caught.value.partial_text, caught.value.partial_thinking) == ("Hello!", "Hm.")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("method", ["chat", "generate"])
def test_an_answer_that_ollama_ends_for_its_repeats_is_told(
    daemon: FakeDaemon, ask: Any, method: str, stream: bool
) -> None:
    """With as much as came; it is asked once."""
    daemon.pieces, daemon.fault = ["So", *[" no"] * 30], Fault.NO_DONE
    question = MESSAGES if method == "chat" else "hi"
    with pytest.raises(compat.BridgeResponseError) as caught:
        ask(daemon.host, method, "m", question, stream=stream)
    assert caught.value.partial_text == "So" + " no" * 30
    cause = caught.value.__cause__
    assert isinstance(cause, RepetitionError)
    assert (cause.attempts, cause.pieces) == (1, 31)


def test_closing_that_is_cancelled_leaves_no_connection(daemon: FakeDaemon) -> None:
    """As with our own client; httpx's would close one of three."""

    async def run() -> None:
        client = compat.AsyncClient(daemon.host)
        await asyncio.gather(*(client.chat("m", MESSAGES) for _ in range(3)))
        pool: Any = client._client._transport
        connections = list(pool._pool.connections)
        assert len(connections) == 3
        closing = asyncio.ensure_future(client.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert all(one.is_closed() for one in connections)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("chat", {"messages": MESSAGES}),
        ("generate", {"prompt": "hi", "stream": True}),
        ("embed", {"input": "hi"}),
    ],
    ids=["chat", "generate", "embed"],
)
def test_a_later_attempt_has_what_the_first_one_left(
    daemon: FakeDaemon, ask: Any, read_limits: list[float], method: str, given: dict[str, Any]
) -> None:
    """As with our own client: ``total_s`` is for all attempts together."""
    hang_up_late_at_first(daemon, after_s=0.1)
    limits = Timeouts(load_s=60.0, first_token_s=60.0, between_tokens_s=60.0, total_s=10.0)
    quick = {"timeouts": limits, "retries": Retries(attempts=3, pause_s=0.0)}
    ask(daemon.host, method, "m", client=quick, **given)
    assert len(daemon.asked) == 2
    assert read_limits[-1] <= 9.9
    assert sorted(read_limits, reverse=True) == read_limits


@pytest.mark.parametrize("stream", [False, True])
def test_what_failed_in_passing_is_asked_again(daemon: FakeDaemon, ask: Any, stream: bool) -> None:
    """As by our own client: a storm is ridden out, for vectors too, and no part comes twice."""
    busy = iter([(503, "busy"), (503, "busy"), None])
    daemon.script = lambda asked: Turn(refusal=next(busy))
    quick = {"retries": Retries(attempts=3, pause_s=0.0)}
    found = ask(daemon.host, "chat", "m", MESSAGES, stream=stream, client=quick)
    parts = found if stream else [found]
    assert "".join(part.message.content for part in parts) == "Hello!"
    assert len(daemon.questions) == 3


def test_a_whole_answer_that_broke_off_is_asked_for_again(daemon: FakeDaemon, ask: Any) -> None:
    """Nobody has seen of it; of a stream somebody has, so that is an error."""
    faults = iter([Fault.NO_DONE, None, Fault.NO_DONE])
    daemon.script = lambda asked: Turn(fault=next(faults))
    quick = {"retries": Retries(attempts=3, pause_s=0.0)}
    assert ask(daemon.host, "chat", "m", MESSAGES, client=quick).message.content == "Hello!"
    with pytest.raises(compat.BridgeResponseError, match="without its terminal event"):
        ask(daemon.host, "chat", "m", MESSAGES, stream=True, client=quick)
    assert len(daemon.questions) == 3


@pytest.mark.parametrize("status", [503, 400])
def test_vectors_are_asked_for_again(ask: Any, status: int) -> None:
    """Where that may help."""
    asked: list[httpx.Request] = []

    def gateway(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if len(asked) < 3:
            return httpx.Response(status, json={"error": "odd"})
        return httpx.Response(200, json={"model": "m", "embeddings": [[1.0]]})

    given = {
        "transport": httpx.MockTransport(gateway),
        "retries": Retries(attempts=3, pause_s=0.0),
    }
    if status == 400:
        with pytest.raises(ollama.ResponseError, match="odd"):
            ask("127.0.0.1:9", "embed", "m", "hi", client=given)
    else:
        assert ask("127.0.0.1:9", "embed", "m", "hi", client=given).embeddings == [[1.0]]
    assert len(asked) == (1 if status == 400 else 3)


def test_a_question_of_system_one_may_wait_for_its_model(ask: Any) -> None:
    """Longer than for what needs none; and what fails in passing is asked again."""
    waits: list[float] = []

    def daemon(request: httpx.Request) -> httpx.Response:
        waits.append(request.extensions["timeout"]["read"])
        if len(waits) == 1:
            return httpx.Response(503, json={"error": "busy"})
        answer = {"type": "noul", "noul": 0.75}
        usage = {"input_tokens": 1, "output_tokens": 1}
        return httpx.Response(200, json={"model": "m", "answers": {"q": answer}, "usage": usage})

    quick = Retries(attempts=2, pause_s=0.0)
    given = {"transport": httpx.MockTransport(daemon), "retries": quick}
    questions = {"q": {"type": "noul", "instructions": "Is it?"}}
    found = ask("127.0.0.1:9", "systemone", "m", "It is.", questions, client=given)
    assert found.answers["q"].noul == 0.75
    assert waits == [600.0, 600.0]


def test_many_texts_are_embedded_some_at_a_time(daemon: FakeDaemon, ask: Any) -> None:
    """What ollama-python asks at once no limit of time would be right for."""
    texts = ["word " * (number % 7 + 1) for number in range(300)]
    found = ask(daemon.host, "embed", "m", texts, keep_alive=0)
    assert [vector[0] for vector in found.embeddings] == [n % 7 + 1.0 for n in range(300)]
    assert found.prompt_eval_count == sum(vector[0] for vector in found.embeddings)
    assert (type(found), found.total_duration) == (ollama.EmbedResponse, None)
    assert [len(asked.json["input"]) for asked in daemon.asked] == [128, 128, 44]
    assert [asked.json["keep_alive"] for asked in daemon.asked] == ["1m", "1m", 0]
    assert ask(daemon.host, "embed", "m", []).embeddings == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_shorter_context_than_was_asked_for_is_an_error(
    daemon: FakeDaemon, ask: Any, stream: bool
) -> None:
    """The daemon says so in ``ps`` only."""
    daemon.context_length = 100
    with pytest.raises(ollama.ResponseError, match="context of 100") as caught:
        ask(daemon.host, "chat", "m", MESSAGES, stream=stream, options={"num_ctx": 4000})
    assert isinstance(caught.value.__cause__, ContextReducedError)
    ask(daemon.host, "chat", "m", MESSAGES, stream=stream, options={"num_ctx": 100})


@pytest.mark.parametrize("stream", [False, True])
def test_a_level_of_thinking_that_the_model_lacks_is_an_error(
    daemon: FakeDaemon, ask: Any, stream: bool
) -> None:
    """The daemon would take its default, unsaid."""
    levels = {"values": [False, "low", "xhigh"], "default": "xhigh"}
    daemon.shown = {**daemon.shown, "thinking": levels}
    with pytest.raises(ollama.ResponseError, match="has no thinking level 'high'") as caught:
        ask(daemon.host, "chat", "m", MESSAGES, stream=stream, think="high")
    assert isinstance(caught.value.__cause__, UnsupportedFeatureError)
    assert daemon.questions == []
    ask(daemon.host, "chat", "m", MESSAGES, stream=stream, think="low")
    assert daemon.questions[-1]["think"] == "low"


REMADE: list[tuple[str, list[str]]] = [
    ("copy", ["other", "m"]),
    ("delete", ["m"]),
    ("create", ["m"]),
    ("pull", ["m"]),
]
THINKS_LOW = {"values": [False, "low"], "default": "low"}
THINKS_HIGH = {"values": [False, "high"], "default": "high"}


@pytest.mark.parametrize(("method", "arguments"), REMADE)
def test_a_tag_that_was_made_another_model_is_looked_at_again(
    daemon: FakeDaemon, method: str, arguments: list[str]
) -> None:
    """Also what was looked at while the daemon made it."""
    daemon.models["other:latest"] = "e" * 64
    daemon.shown = {**daemon.shown, "thinking": THINKS_LOW}
    with compat.Client(daemon.host) as client:
        client.chat("m", MESSAGES, think="low")
        if method in ("create", "pull"):
            parts = getattr(client, method)(*arguments, stream=True)
            next(parts)
            client.chat("m", MESSAGES, think="low")
            list(parts)
        else:
            getattr(client, method)(*arguments)
        daemon.models.setdefault("m:latest", "f" * 64)
        daemon.shown = {**daemon.shown, "thinking": THINKS_HIGH}
        with pytest.raises(ollama.ResponseError, match="has no thinking level 'low'"):
            client.chat("m", MESSAGES, think="low")


@pytest.mark.parametrize(("method", "arguments"), REMADE)
def test_so_it_is_without_blocking(daemon: FakeDaemon, method: str, arguments: list[str]) -> None:
    """As :func:`test_a_tag_that_was_made_another_model_is_looked_at_again`."""
    daemon.models["other:latest"] = "e" * 64
    daemon.shown = {**daemon.shown, "thinking": THINKS_LOW}

    async def run() -> None:
        async with compat.AsyncClient(daemon.host) as client:
            await client.chat("m", MESSAGES, think="low")
            if method in ("create", "pull"):
                parts = await getattr(client, method)(*arguments, stream=True)
                await anext(parts)
                await client.chat("m", MESSAGES, think="low")
                assert [part async for part in parts]
            else:
                await getattr(client, method)(*arguments)
            daemon.models.setdefault("m:latest", "f" * 64)
            daemon.shown = {**daemon.shown, "thinking": THINKS_HIGH}
            with pytest.raises(ollama.ResponseError, match="has no thinking level 'low'"):
                await client.chat("m", MESSAGES, think="low")

    asyncio.run(run())


@pytest.mark.parametrize("count", [1, 3])
def test_a_look_at_the_context_waits_for_no_question(
    daemon: FakeDaemon, client_kind: str, count: int
) -> None:
    """Nor for a connection that one holds: those are bounded, and what is asked beside is not."""
    together, most = threading.Barrier(count, timeout=20), threading.Semaphore(count)

    def meets(asked: Asked) -> Turn:
        assert most.acquire(blocking=False)  # no more than that at a time
        together.wait()
        most.release()
        return Turn()

    async def run_asyncio() -> list[ollama.ChatResponse]:
        async with compat.AsyncClient(daemon.host, timeouts=PATIENT, limits=limits) as client:
            return await asyncio.gather(
                *(client.chat(*asked, options=options, think="low") for _ in range(6))
            )

    def run_blocking() -> list[ollama.ChatResponse]:
        with (
            compat.Client(daemon.host, timeouts=PATIENT, limits=limits) as client,
            ThreadPoolExecutor(6) as threads,
        ):
            futures = [
                threads.submit(client.chat, *asked, options=options, think="low") for _ in range(6)
            ]
            return [future.result() for future in futures]

    daemon.script = meets
    asked: tuple[Any, ...] = ("m", MESSAGES)
    daemon.shown = {**daemon.shown, "thinking": {"values": ["low"], "default": "low"}}
    options, limits = {"num_ctx": 64}, httpx.Limits(max_connections=count)
    found = run_blocking() if client_kind == "blocking" else asyncio.run(run_asyncio())
    assert [one.message.content for one in found] == ["Hello!"] * 6
    assert "/api/ps" in [one.path for one in daemon.asked]


@pytest.mark.parametrize("bounds", ["limits", "transport"])
def test_who_waits_for_a_connection_of_our_own_waits_for_no_answer_yet(
    daemon: FakeDaemon, client_kind: str, bounds: str
) -> None:
    """However long: the limit of the daemon's silence is counted from when it was asked."""
    held_s, daemon.pause_s = 3.2, 0.02
    one = httpx.Limits(max_connections=1)
    transport = httpx.HTTPTransport if client_kind == "blocking" else httpx.AsyncHTTPTransport
    given: dict[str, Any] = {
        "timeouts": Timeouts(connect_s=1.0, load_s=0.0, first_token_s=2.0, total_s=60.0),
        "retries": NO_RETRIES,
        bounds: one if bounds == "limits" else transport(limits=one),
    }

    async def run_asyncio() -> ollama.ChatResponse:
        async with compat.AsyncClient(daemon.host, **given) as client:
            stream = await client.chat("m", MESSAGES, stream=True)
            await anext(stream)
            waiting = asyncio.create_task(client.chat("m", MESSAGES))
            await asyncio.wait([waiting], timeout=held_s)
            assert [part async for part in stream]
            return await waiting

    def run_blocking() -> ollama.ChatResponse:
        with compat.Client(daemon.host, **given) as client, ThreadPoolExecutor() as others:
            stream = client.chat("m", MESSAGES, stream=True)
            next(stream)
            waiting = others.submit(client.chat, "m", MESSAGES)
            wait([waiting], timeout=held_s)
            assert list(stream)
            return waiting.result()

    found = run_blocking() if client_kind == "blocking" else asyncio.run(run_asyncio())
    assert found.message.content == "Hello!"


def test_an_overflow_is_estimated_where_the_daemon_tells_no_numbers(
    daemon: FakeDaemon, ask: Any
) -> None:
    """Of questions and of texts to embed."""

    def counts_words(asked: Asked) -> Turn:
        if asked.json.get("truncate") is False:
            return Turn(refusal=(400, "the input length exceeds the context length"))
        return Turn(prompt_tokens=len(asked.json["prompt"].split()))

    daemon.script, daemon.context_length = counts_words, 100
    for method in ("generate", "embed"):
        with pytest.raises(ollama.ResponseError, match=r"about 2\d\d tokens, the limit is 100"):
            ask(daemon.host, method, "m", "some words " * 120)


def test_refusals_have_their_status(daemon: FakeDaemon, ask: Any) -> None:
    """So that ``except ResponseError as e: if e.status_code == 404: pull`` works."""
    with pytest.raises(ollama.ResponseError) as caught:
        ask(daemon.host, "chat", "none", MESSAGES)
    assert caught.value.status_code == 404
    assert isinstance(caught.value.__cause__, ModelNotFoundError)
    assert "ollama" in str(getattr(caught.value, "hint", ""))
    long = "the input exceeds the available context size"
    daemon.script = lambda asked: Turn(refusal=(400, long))
    with pytest.raises(ollama.ResponseError) as caught:
        ask(daemon.host, "generate", "m", "hi")
    assert isinstance(caught.value.__cause__, ContextOverflowError)


def test_nobody_at_home(ask: Any) -> None:
    """ConnectionError, as there."""
    with pytest.raises(ConnectionError, match="no daemon answers"):
        ask(nobody_listens(), "list")
    with pytest.raises(ConnectionError):
        ask(nobody_listens(), "chat", "m", MESSAGES, stream=True, client=HASTY)


def test_an_option_that_would_be_ignored_is_told(daemon: FakeDaemon, ask: Any) -> None:
    """ollama-python still offers some."""
    with pytest.raises(ConfigError, match="unknown option 'mirostat'"):
        ask(daemon.host, "chat", "m", MESSAGES, options={"mirostat": 1})
    assert daemon.questions == []


def test_options_of_embeddings_are_looked_at_too(daemon: FakeDaemon, ask: Any) -> None:
    """The daemon would ignore them as well."""
    with pytest.raises(ConfigError, match="unknown option 'num_ctxx'"):
        ask(daemon.host, "embed", "m", "hi", options={"num_ctxx": 9})
    assert daemon.asked == []


@pytest.mark.parametrize(
    "part",
    [
        {"message": {"role": "assistant", "content": 5}},
        {"message": {"role": "assistant", "content": "", "tool_calls": 3}},
        {"logprobs": 7, "message": {"role": "assistant", "content": ""}},
    ],
)
def test_an_odd_part_of_an_answer_is_an_error(
    daemon: FakeDaemon, ask: Any, monkeypatch: pytest.MonkeyPatch, part: dict[str, Any]
) -> None:
    """Of ollama-python's kind, whether the parts are handed out or joined."""
    last = {"message": {"role": "assistant", "content": ""}, "done": True}
    monkeypatch.setattr(daemon, "answer", lambda turn, *, chat: iter([part, last]))
    for stream in (False, True):
        with pytest.raises(ollama.ResponseError, match="is not a valid ChatResponse"):
            ask(daemon.host, "chat", "m", MESSAGES, stream=stream)


def test_headers_and_timeouts_of_httpx_are_kept(daemon: FakeDaemon, ask: Any) -> None:
    """A timeout bounds every silence."""
    ask(daemon.host, "list", client={"headers": {"x-team": "blue"}})
    assert daemon.asked[-1].headers["x-team"] == "blue"
    assert daemon.asked[-1].headers["user-agent"].startswith("ollama-python/")
    daemon.fault = Fault.STALL
    with pytest.raises(ollama.ResponseError, match=r"within 0\.2 s"):
        ask(daemon.host, "chat", "m", MESSAGES, client={"timeout": 0.2})


def test_cookies_and_parameters_of_httpx_are_sent(ask: Any) -> None:
    """A gateway may want them."""

    def gateway(request: httpx.Request) -> httpx.Response:
        assert request.headers["cookie"] == "session=1"
        assert request.url.params["tenant"] == "blue"
        return httpx.Response(200, json={"models": []})

    given = {
        "transport": httpx.MockTransport(gateway),
        "cookies": {"session": "1"},
        "params": {"tenant": "blue"},
    }
    assert ask("127.0.0.1:9", "list", client=given).models == []


def test_what_goes_elsewhere_goes_through_the_proxy(
    daemon: FakeDaemon, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes to our own machine does not; this proxy knows no tunnels."""
    with FakeDaemon() as proxy:
        monkeypatch.setenv("ALL_PROXY", f"http://{proxy.host}")
        given = {"headers": {"Authorization": "Bearer k"}}
        with pytest.raises(httpx.ProxyError):
            ask(daemon.host, "web_search", "x", client=given)
        assert ask(daemon.host, "list", client=given).models[0].model == "m:latest"
        assert proxy.asked == []


def test_certificates_of_our_own_count_on_our_own_machine(
    ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy there may speak TLS, by an authority that only its owner knows."""
    monkeypatch.setenv("SSL_CERT_FILE", "/none.pem")
    with pytest.raises(FileNotFoundError):
        ask("https://localhost", "list")


def test_a_long_timeout_is_one_of_the_whole_call() -> None:
    """Which may take as long as a silence may."""
    with compat.Client(timeout=7200) as client:
        limits = client._transport._timeouts
    assert (limits.between_tokens_s, limits.total_s) == (7200, 7200)


def test_a_pull_that_does_not_succeed_is_an_error(daemon: FakeDaemon, ask: Any) -> None:
    """Though every line was fine."""
    daemon.statuses = [{"status": "working"}]
    with pytest.raises(ollama.ResponseError, match="without its terminal event"):
        ask(daemon.host, "pull", "m")


def test_what_would_be_lost_is_refused(
    daemon: FakeDaemon, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later ollama-python may send more than a body; nothing is asked without it."""

    def later(client: Any, cls: Any) -> Any:
        return client._request(cls, "GET", "/api/tags", params={"page": 2})

    for surface in (ollama.Client, ollama.AsyncClient):
        monkeypatch.setattr(surface, "list", lambda self: later(self, ollama.ListResponse))
    with pytest.raises(TypeError, match=r"GET /api/tags: .* as params"):
        ask(daemon.host, "list")
    assert daemon.asked == []


def test_the_module_s_functions_ask_the_default_daemon(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``compat.chat`` is ``ollama.chat``."""

    def script(asked: Asked) -> Turn:
        return Turn(pieces=["yes"])

    daemon.script = script
    monkeypatch.setenv("OLLAMA_HOST", daemon.host)
    compat._default.cache_clear()
    try:
        assert compat.chat("m", MESSAGES).message.content == "yes"
        assert compat.list().models[0].model == "m:latest"
    finally:
        compat._default().close()
        compat._default.cache_clear()
