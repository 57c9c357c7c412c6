"""What each method sends, and the value that it makes of the daemon's answer."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes.daemon import FakeDaemon

from ollama_bridge.client import (
    AsyncClient,
    Client,
    Done,
    Reply,
    Text,
    Thinking,
    Timings,
    ToolCall,
    TopLogprob,
    calls,
)
from ollama_bridge.client.jobs import health
from ollama_bridge.client.measuring import Measuring
from ollama_bridge.client.options import DEFAULT_NUM_PREDICT
from ollama_bridge.client.requests import Asking
from ollama_bridge.client.wire.refusals import rejection
from ollama_bridge.errors import (
    ArtifactError,
    ConfigError,
    ContextOverflowError,
    DaemonError,
    ModelNotFoundError,
    RenderingHiddenError,
    ReplyInvalidError,
    RequestRejectedError,
    RunnerCrashedError,
    StreamBrokenError,
)
from ollama_bridge.examples import Message

HELLO = Reply(
    text="Hello!",
    thinking="",
    done_reason="stop",
    model="m:latest",
    prompt_tokens=7,
    generated_tokens=3,
    timings=Timings(total_s=4.0, load_s=1.0, prompt_s=0.5, generate_s=2.0),
)


@pytest.mark.parametrize("method", ["generate", "chat"])
def test_a_reply_has_text_counts_and_times(fake_daemon: FakeDaemon, ask: Any, method: str) -> None:
    """The pieces are joined; the daemon's counts and nanoseconds are read."""
    assert ask(fake_daemon.host, method, "m", "hi") == HELLO


def test_a_stream_is_typed_events_that_end_in_done(fake_daemon: FakeDaemon, ask: Any) -> None:
    """Thinking, then text as it comes, then the whole reply."""
    fake_daemon.thinking = ["Hm", "m."]
    events = ask(fake_daemon.host, "stream", "m", "hi")
    assert events[:2] == [Thinking("Hm"), Thinking("m.")]
    assert events[2:5] == [Text("Hel"), Text("lo"), Text("!")]
    assert isinstance(events[5], Done)
    assert (events[5].reply.text, events[5].reply.thinking) == ("Hello!", "Hmm.")
    assert len(events) == 6


def test_nothing_is_cut_silently_and_every_answer_is_bounded(
    fake_daemon: FakeDaemon, ask: Any
) -> None:
    """Every question forbids truncating and shifting, streams, and limits the answer."""
    for method in ("generate", "chat", "stream"):
        ask(fake_daemon.host, method, "m", "hi", options={"seed": 1, "stop": None})
    for asked in fake_daemon.asked:
        assert asked.json["truncate"] is False
        assert asked.json["shift"] is False
        assert asked.json["stream"] is True
        assert asked.json["options"] == {"seed": 1, "num_predict": DEFAULT_NUM_PREDICT}


@pytest.mark.parametrize("shift", [False, True])
def test_what_belongs_to_a_question_loads_no_other_model(shift: bool) -> None:
    """To 0.34 another ``shift`` is another way of loading."""
    loading = calls.load("m", options=None, keep_alive=None)
    rendering = calls.render("m", "hi", think=None, tools=None)
    scoring = calls.next_token("m", "hi", top=1, options=None, forced=False)
    for call in (loading, rendering, scoring):
        assert (call.json or {})["shift"] is Asking().shift
    question = calls.chat("m", "hi", Asking(shift=shift), system=None, tools=None)
    canary = health.canary(question)
    assert canary is not None
    overflow = ContextOverflowError("too long", status_code=400)
    measured = Measuring(overflow, question, ends_s=0.0).calls
    for call in (canary, *measured):
        assert call.json is None or call.json["shift"] is shift


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"temprature": 0}, "did you mean temperature?"),
        ({"max_tokens": 5}, "known:|did you mean"),
        ({"num_predict": -1}, "at least 1"),
    ],
)
@pytest.mark.parametrize("method", ["generate", "chat", "stream"])
def test_a_wrong_option_is_refused_before_anything_is_sent(
    fake_daemon: FakeDaemon, ask: Any, method: str, options: dict[str, Any], problem: str
) -> None:
    """Ollama would ignore the name; we name the nearest right one and send nothing."""
    with pytest.raises(ConfigError) as caught:
        ask(fake_daemon.host, method, "m", "hi", options=options)
    assert caught.value.hint is not None
    assert any(words in caught.value.hint for words in problem.split("|"))
    assert fake_daemon.asked == []


def test_a_stream_checks_its_options_when_it_is_made(fake_daemon: FakeDaemon) -> None:
    """Not only when its first event is asked for."""
    with Client(fake_daemon.host) as client, pytest.raises(ConfigError):
        client.stream("m", "hi", options={"temprature": 0})


@pytest.mark.parametrize("value", [float("nan"), object(), "\ud800"])
def test_what_json_cannot_carry_is_refused(fake_daemon: FakeDaemon, ask: Any, value: Any) -> None:
    """NaN, objects and half surrogate pairs are errors of ours, without the prompt's text."""
    with pytest.raises(ConfigError) as caught:
        ask(fake_daemon.host, "generate", "m", "secret plan", system=value)
    assert "secret" not in str(caught.value)
    assert ("UTF-8" in (caught.value.hint or "")) == (value == "\ud800")
    assert fake_daemon.asked == []


def test_messages_come_in_every_form(fake_daemon: FakeDaemon, ask: Any) -> None:
    """A text, our messages and plain mappings; ``system`` comes first; images are encoded."""
    turns = [Message("user", "a"), {"role": "assistant", "content": "b", "images": [b"\x00"]}]
    ask(fake_daemon.host, "chat", "m", "hi", system="S")
    ask(fake_daemon.host, "chat", "m", turns)
    assert fake_daemon.asked[0].json["messages"] == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "hi"},
    ]
    assert fake_daemon.asked[1].json["messages"] == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "images": ["AA=="]},
    ]
    for bad in ([{"content": "x"}], ["x"]):
        with pytest.raises(ConfigError, match="message 0"):
            ask(fake_daemon.host, "chat", "m", bad)


def test_optional_fields_are_sent_only_when_given(fake_daemon: FakeDaemon, ask: Any) -> None:
    """The daemon's own defaults hold otherwise."""
    given = {
        "system": "S",
        "suffix": "x",
        "template": "T",
        "raw": True,
        "images": [b"\x00"],
        "think": False,
        "format": "json",
        "keep_alive": 0,
        "logprobs": True,
        "top_logprobs": 2,
    }
    ask(fake_daemon.host, "generate", "m", "hi")
    ask(fake_daemon.host, "generate", "m", "hi", **given)
    assert not set(given) & set(fake_daemon.asked[0].json)
    sent = fake_daemon.asked[1].json
    assert {name: sent[name] for name in given} == {**given, "images": ["AA=="]}


def test_tool_calls_are_events_and_part_of_the_reply(fake_daemon: FakeDaemon, ask: Any) -> None:
    """A call of a tool is read from the message."""
    call = {"function": {"name": "add", "arguments": {"a": 1}}}
    fake_daemon.pieces = []
    fake_daemon.final["message"] = {"role": "assistant", "content": "", "tool_calls": [call]}
    events = ask(fake_daemon.host, "stream", "m", "hi", tools=[{"type": "function"}])
    assert events[0] == ToolCall("add", {"a": 1})
    assert events[-1].reply.tool_calls == (ToolCall("add", {"a": 1}),)


def test_an_overflow_says_by_how_much(fake_daemon: FakeDaemon, ask: Any) -> None:
    """The daemon's numbers are in the message, also out of JSON within its text."""
    said = (
        '{"error":"{\\"error\\":{\\"code\\":400,\\"message\\":\\"request (5010 tokens) exceeds the '
        'available context size (512 tokens)\\",\\"n_prompt_tokens\\":5010,\\"n_ctx\\":512}}"}'
    )

    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(400, content=said.encode())

    with pytest.raises(ContextOverflowError, match="5010 tokens, the limit is 512: 4498 too many"):
        ask(fake_daemon.host, "chat", "m", "hi", handler=handler)


def test_an_overflow_of_absurd_numbers() -> None:
    """Is one all the same, without them."""
    said = f'{{"message":"exceeds the context","n_prompt_tokens":{"9" * 5000},"n_ctx":512}}'
    error = rejection(400, said, model="m")
    assert isinstance(error, ContextOverflowError)
    assert error.needed_tokens is None


def test_lists_and_details_are_values(fake_daemon: FakeDaemon, ask: Any) -> None:
    """``list``, ``ps``, ``show``, ``version`` and ``render`` read what the daemon says."""
    host = fake_daemon.host
    assert ask(host, "version") == "0.34.4"
    assert [(m.name, m.size_bytes) for m in ask(host, "list")] == [("m:latest", 5)]
    assert [(m.name, m.context_length) for m in ask(host, "ps")] == [("m:latest", 4096)]
    details = ask(host, "show", "m")
    assert (details.modelfile, details.capabilities) == ("FROM x", ("tools",))
    assert ask(host, "render", "m", "hi", think=False) == "[user]hi"
    assert fake_daemon.asked[-1].json["think"] is False


@pytest.mark.parametrize("field", [{"details": []}, {"messages": ["x"]}, {"messages": {}}])
def test_details_of_the_wrong_kind(fake_daemon: FakeDaemon, ask: Any, field: Any) -> None:
    """Also those that are read of the whole reply are held to be what they should; null is none."""
    fake_daemon.shown = {**fake_daemon.shown, **dict.fromkeys(field)}
    assert ask(fake_daemon.host, "show", "m").modelfile == "FROM x"
    fake_daemon.shown = {**fake_daemon.shown, **field}
    with pytest.raises(ReplyInvalidError, match="/api/show"):
        ask(fake_daemon.host, "show", "m")


def test_a_hidden_prompt_is_told_from_a_broken_reply(fake_daemon: FakeDaemon, ask: Any) -> None:
    """A daemon that does not know the flag answers: one token, and an error of its own kind."""
    fake_daemon.renders = False
    with pytest.raises(RenderingHiddenError, match="does not say how it renders"):
        ask(fake_daemon.host, "render", "m", "hi")
    assert fake_daemon.asked[-1].json["options"]["num_predict"] == 1


def test_copy_delete_and_unload(fake_daemon: FakeDaemon, ask: Any) -> None:
    """Names come and go."""
    ask(fake_daemon.host, "copy", "m", "n:1")
    assert set(fake_daemon.models) == {"m:latest", "n:1"}
    ask(fake_daemon.host, "delete", "n:1")
    assert set(fake_daemon.models) == {"m:latest"}
    ask(fake_daemon.host, "unload", "m")
    assert fake_daemon.asked[-1].json["keep_alive"] == 0


def test_a_file_is_sent_whole_and_checked(
    fake_daemon: FakeDaemon, ask: Any, tmp_path: Path
) -> None:
    """Bytes arrive, progress is told, and a wrong digest is refused with what to do."""
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" * 400_000)
    digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    told: list[tuple[int, int]] = []
    assert not ask(fake_daemon.host, "has_blob", digest)
    ask(
        fake_daemon.host,
        "upload_blob",
        path,
        digest,
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert ask(fake_daemon.host, "has_blob", digest)
    assert fake_daemon.blobs[digest] == path.read_bytes()
    assert told == [(1 << 20, 1_600_000), (1_600_000, 1_600_000)]
    with pytest.raises(RequestRejectedError, match="digest mismatch") as caught:
        ask(fake_daemon.host, "upload_blob", path, "sha256:" + "0" * 64)
    assert caught.value.hint is not None


def test_a_file_that_cannot_be_sent(fake_daemon: FakeDaemon, ask: Any, tmp_path: Path) -> None:
    """Missing, or cut while it was sent: an error of ours that names the file."""
    path = tmp_path / "model.gguf"
    digest = "sha256:" + "0" * 64
    with pytest.raises(ArtifactError, match=r"model\.gguf"):
        ask(fake_daemon.host, "upload_blob", path, digest)
    path.write_bytes(b"x" * 2_500_000)

    def cut(done: int, total: int) -> None:
        path.write_bytes(b"x" * 1_200_000)

    with pytest.raises(ArtifactError, match="changed while it was sent"):
        ask(fake_daemon.host, "upload_blob", path, digest, on_progress=cut)


@pytest.mark.parametrize("digest", ["", "sha256:../../x", "sha256-" + "0" * 64, "0" * 64])
def test_only_a_digest_gets_into_a_path(fake_daemon: FakeDaemon, ask: Any, digest: str) -> None:
    """No other text can be made a part of the address."""
    with pytest.raises(ConfigError, match="is not a digest"):
        ask(fake_daemon.host, "has_blob", digest)


def test_create_reports_and_demands_success(fake_daemon: FakeDaemon, ask: Any) -> None:
    """Statuses are passed on; an end without success, or an error line, is an error."""
    seen: list[str] = []
    ask(fake_daemon.host, "create", {"model": "n"}, on_status=seen.append)
    assert seen == ["writing manifest", "success"]
    fake_daemon.statuses = [{"status": "writing manifest"}]
    with pytest.raises(StreamBrokenError, match="without success"):
        ask(fake_daemon.host, "create", {"model": "n"})
    fake_daemon.statuses = [{"status": "parsing"}, {"error": "no such file"}]
    with pytest.raises(RunnerCrashedError, match="no such file"):
        ask(fake_daemon.host, "create", {"model": "n"})
    with pytest.raises(ConfigError, match="names no model"):
        ask(fake_daemon.host, "create", {})


@pytest.mark.parametrize("verb", ["pull", "push"])
def test_transfers_tell_their_progress(fake_daemon: FakeDaemon, ask: Any, verb: str) -> None:
    """Bytes done and in all, as the daemon counts them."""
    fake_daemon.statuses = [
        {"status": "pulling", "total": 10, "completed": 4},
        {"status": "success"},
    ]
    told: list[tuple[int, int]] = []
    ask(fake_daemon.host, verb, "m", on_progress=lambda done, total: told.append((done, total)))
    assert told == [(4, 10)]
    (asked,) = fake_daemon.asked
    assert asked.json == {"model": "m", "stream": True}


@pytest.mark.parametrize("verb", ["pull", "push"])
def test_transfers_are_plain_only_when_asked(fake_daemon: FakeDaemon, ask: Any, verb: str) -> None:
    """The daemon speaks plain http to a registry only where the caller said so."""
    ask(fake_daemon.host, verb, "m", insecure=True)
    (asked,) = fake_daemon.asked
    assert asked.json["insecure"] is True


@pytest.mark.parametrize("verb", ["pull", "push"])
def test_a_transfer_has_to_say_that_it_succeeded(
    fake_daemon: FakeDaemon, ask: Any, verb: str
) -> None:
    """An error in the stream, or an end without success, is an error."""
    fake_daemon.statuses = [{"status": "pushing"}]
    with pytest.raises(StreamBrokenError, match="ended without success"):
        ask(fake_daemon.host, verb, "m")
    fake_daemon.statuses = [{"status": "pushing"}, {"error": "unauthorized: access denied"}]
    with pytest.raises(DaemonError, match="access denied"):
        ask(fake_daemon.host, verb, "m")


@pytest.mark.parametrize("verb", ["pull", "push"])
@pytest.mark.parametrize(
    ("said", "kind", "message", "hint"),
    [
        (
            'Get "https://registry.ollama.ai/v2/library/m/manifests/latest": dial tcp: lookup '
            "registry.ollama.ai on 10.0.0.1:53: no such host",
            RunnerCrashedError,
            "the daemon reaches no registry: pull model",
            "HTTPS_PROXY",
        ),
        (
            'Get "https://127.0.0.1:5000/v2/team/m/manifests/1": http: server gave HTTP response '
            "to HTTPS client",
            RunnerCrashedError,
            "the registry speaks plain http",
            "--insecure",
        ),
        (
            'realm host "" does not match original host "127.0.0.1:5000"',
            RunnerCrashedError,
            "the registry asks for a password",
            "ollama-bridge publish",
        ),
        ("file does not exist", ModelNotFoundError, "the registry has no model 'm'", "its name"),
    ],
)
def test_what_a_registry_did_to_the_daemon_is_told(
    fake_daemon: FakeDaemon,
    ask: Any,
    verb: str,
    said: str,
    kind: type[DaemonError],
    message: str,
    hint: str,
) -> None:
    """Its log says no more than the error, and nothing of it passes."""
    fake_daemon.statuses = [
        {"status": "pulling manifest"},
        {"error": f"pull model manifest: {said}"},
    ]
    with pytest.raises(kind, match=message) as caught:
        ask(fake_daemon.host, verb, "m")
    assert hint in str(caught.value.hint)


def test_next_token_reads_the_distribution(fake_daemon: FakeDaemon, ask: Any) -> None:
    """A raw prompt, one token, no stops; log-probabilities as they are."""
    fake_daemon.pieces = ["Yes"]
    top = [{"token": "Yes", "logprob": -0.5, "bytes": [89, 101, 115]}, {"token": "", "logprob": -2}]
    fake_daemon.logprobs = [{"token": "Yes", "logprob": -0.5, "top_logprobs": top}]
    found = ask(fake_daemon.host, "next_token", "m", "raw", top=2, options={"num_ctx": 64})
    assert found.top == (TopLogprob("Yes", -0.5, b"Yes"), TopLogprob("", -2.0))
    assert (found.prompt_tokens, found.chosen) == (7, "Yes")
    (question,) = fake_daemon.questions
    assert question["raw"] is True
    assert question["options"] == {"temperature": 0, "num_ctx": 64, "num_predict": 1, "stop": []}


def test_next_token_asks_again_where_the_daemon_reports_nothing(
    fake_daemon: FakeDaemon, ask: Any
) -> None:
    """Where the end token is drawn the daemon is made to draw another; without any, an error."""
    with pytest.raises(ReplyInvalidError, match="no log-probabilities"):
        ask(fake_daemon.host, "next_token", "m", "raw")
    first, second = (asked.json for asked in fake_daemon.asked)
    assert "format" not in first
    assert second["format"] == {"type": "string", "enum": ["a"]}
    with pytest.raises(ConfigError, match="1 to 20"):
        ask(fake_daemon.host, "next_token", "m", "raw", top=21)


def test_one_connection_serves_many_questions(fake_daemon: FakeDaemon) -> None:
    """A finished answer gives its connection back."""
    with Client(fake_daemon.host) as client:
        for _ in range(3):
            client.generate("m", "hi")
            client.version()
    assert len(fake_daemon.connections) == 1


def test_an_abandoned_stream_leaves_the_client_usable(fake_daemon: FakeDaemon) -> None:
    """Whoever stops listening can ask again."""
    with Client(fake_daemon.host) as client:
        stream = client.stream("m", "hi")
        assert next(stream) == Text("Hel")
        del stream
        assert client.generate("m", "hi") == HELLO


def test_both_clients_have_the_same_surface() -> None:
    """Same methods, same parameters, same defaults; what is awaited has a type of its own."""

    def surface(one: type) -> dict[str, Any]:
        return {
            name: [
                str(p).replace("Async", "") for p in inspect.signature(method).parameters.values()
            ]
            for name, method in inspect.getmembers(one, callable)
            if not name.startswith("_")
        }

    assert surface(Client) == surface(AsyncClient)


@pytest.mark.parametrize("name", ["", " ", None])
@pytest.mark.parametrize("method", ["show", "delete", "copy", "pull", "push", "unload"])
def test_nothing_is_asked_of_a_model_without_a_name(
    fake_daemon: FakeDaemon, ask: Any, method: str, name: Any
) -> None:
    """Of an empty variable of a shell the daemon says that the model '' was not found."""
    given = ("m", name) if method == "copy" else (name,)
    with pytest.raises(ConfigError, match="no model was named"):
        ask(fake_daemon.host, method, *given)
    assert fake_daemon.asked == []
