"""What was cut, what the context is, when an answer began: told, never guessed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fakes.daemon import Asked, FakeDaemon, Fault, Turn

from ollama_bridge.client import Client, Cut, Done, Retries, Timeouts, calls
from ollama_bridge.client.answers.answering import Answering
from ollama_bridge.client.answers.assembly import ReplyAssembler
from ollama_bridge.client.requests import Asking
from ollama_bridge.errors import (
    ContextOverflowError,
    ContextReducedError,
    DaemonBusyError,
    DaemonUnreachableError,
    StreamBrokenError,
    UnsupportedFeatureError,
)

TOO_LONG = json.dumps(
    {"error": {"message": "exceeds the context", "n_prompt_tokens": 500, "n_ctx": 64}},
    separators=(",", ":"),
)


def cuts_only_when_allowed(asked: Asked) -> Turn:
    """Whole messages; within one only where the context may be shifted as well."""
    body = asked.json
    if body["truncate"] and (body["shift"] or len(body.get("messages", ())) > 1):
        return Turn(prompt_tokens=33)
    return Turn(refusal=(400, TOO_LONG))


@pytest.mark.parametrize("method", ["generate", "chat", "stream"])
def test_a_prompt_is_cut_only_where_that_was_allowed(
    fake_daemon: FakeDaemon, ask: Any, method: str
) -> None:
    """Else it is an error with numbers; where it was, the reply says how much is gone."""
    fake_daemon.script = cuts_only_when_allowed
    with pytest.raises(ContextOverflowError, match="436 too many") as caught:
        ask(fake_daemon.host, method, "m", "hi")
    assert (caught.value.needed_tokens, caught.value.limit_tokens) == (500, 64)
    found = ask(fake_daemon.host, method, "m", "hi", truncate=True)
    reply = found[-1].reply if method == "stream" else found
    assert reply.cut == Cut(needed_tokens=500, kept_tokens=33)
    assert reply.cut.dropped_tokens == 467
    last = fake_daemon.questions[-1]
    # Ollama 0.34 cuts a text only where it may shift; an answer that fits beside what is left
    # does not.
    assert (last["shift"], last["options"]["num_predict"]) == (True, 29)


def test_a_conversation_is_cut_by_the_runner_that_is_there(
    fake_daemon: FakeDaemon, ask: Any
) -> None:
    """Messages are left out whatever ``shift`` is, and another value has the model loaded anew."""
    fake_daemon.script = cuts_only_when_allowed
    said = [{"role": role, "content": "hi"} for role in ("user", "assistant", "user")]
    reply = ask(fake_daemon.host, "chat", "m", said, truncate=True)
    assert reply.cut == Cut(needed_tokens=500, kept_tokens=33)
    first, second = fake_daemon.questions
    assert (first["truncate"], second) == (False, first | {"truncate": True})
    assert second["shift"] is False


def test_what_no_way_of_cutting_makes_fit_is_an_error(fake_daemon: FakeDaemon, ask: Any) -> None:
    """Each is tried once."""
    fake_daemon.script = lambda asked: Turn(refusal=(400, TOO_LONG))
    with pytest.raises(ContextOverflowError):
        ask(fake_daemon.host, "chat", "m", "hi", truncate=True)
    tried = [(body["truncate"], body["shift"]) for body in fake_daemon.questions]
    assert tried == [(False, False), (True, False), (True, True)]


def test_what_fits_is_not_cut(fake_daemon: FakeDaemon, ask: Any) -> None:
    """Where cutting is allowed and not needed, it is asked for once and nothing is said of it."""
    reply = ask(fake_daemon.host, "chat", "m", "hi", truncate=True)
    assert reply.cut is None
    assert [question["truncate"] for question in fake_daemon.questions] == [False]


UNCOUNTED = (400, "the input length exceeds the context length")


def counts_words(asked: Asked) -> Turn:
    """A daemon that says how long a prompt was only where it fits."""
    if asked.json.get("truncate") is False:
        return Turn(refusal=UNCOUNTED)
    return Turn(prompt_tokens=len(asked.json.get("prompt", "hi").split()))


@pytest.mark.parametrize("method", ["generate", "chat", "stream"])
def test_where_the_daemon_tells_no_numbers_they_are_estimated(
    fake_daemon: FakeDaemon, ask: Any, method: str
) -> None:
    """From short parts of the prompt, read with its options; and it is said to be an estimate."""
    fake_daemon.script, fake_daemon.context_length = counts_words, 500
    with pytest.raises(ContextOverflowError, match="about") as caught:
        ask(fake_daemon.host, method, "m", "some words " * 1000, options={"num_ctx": 500})
    assert caught.value.is_estimate
    assert caught.value.limit_tokens == 500
    assert caught.value.needed_tokens == pytest.approx(2000, rel=0.05)
    assert str(caught.value).endswith(f"about {caught.value.needed_tokens - 500} too many")
    _, *parts = fake_daemon.questions
    assert all(len(part["prompt"]) <= 240 for part in parts)
    assert all(part["options"]["num_ctx"] == 500 for part in parts)
    assert len(parts) == 3


def test_what_cannot_be_estimated_is_still_too_long(fake_daemon: FakeDaemon, ask: Any) -> None:
    """A daemon that then says nothing sensible: the error without numbers."""
    fake_daemon.script = lambda asked: Turn(refusal=UNCOUNTED)
    with pytest.raises(ContextOverflowError, match="does not fit") as caught:
        ask(fake_daemon.host, "chat", "m", "hi")
    assert (caught.value.needed_tokens, caught.value.is_estimate) == (None, False)


def test_an_estimate_takes_no_longer_than_the_question_may(
    fake_daemon: FakeDaemon, ask: Any
) -> None:
    """All parts together: of a daemon that is slow with each, the error has no numbers."""

    def slowly(asked: Asked) -> Turn:
        fake_daemon.closing.wait(0.8 if "truncate" not in asked.json else 0.0)
        return counts_words(asked)

    fake_daemon.script = slowly
    with pytest.raises(ContextOverflowError) as caught:
        ask(fake_daemon.host, "chat", "m", "some words " * 3000, timeouts=Timeouts(total_s=2.0))
    assert caught.value.needed_tokens is None


def test_a_text_to_embed_is_estimated_too(fake_daemon: FakeDaemon, ask: Any) -> None:
    """No version of Ollama says by how much it is too long."""
    fake_daemon.context_length = 100
    with pytest.raises(ContextOverflowError, match="the limit is 100") as caught:
        ask(fake_daemon.host, "embed", "m", ["short", "some words " * 100])
    assert caught.value.needed_tokens == pytest.approx(200, rel=0.05)


def test_a_text_that_a_batch_does_not_hold_is_not_too_long_for_the_context(
    fake_daemon: FakeDaemon, ask: Any
) -> None:
    """Ollama says the same of both: it would be 200 tokens of 4096, about 1 too many."""
    fake_daemon.embed = FakeDaemon(context_length=100).embed  # type: ignore[method-assign]
    with pytest.raises(ContextOverflowError, match=r"one batch \(num_batch\)") as caught:
        ask(fake_daemon.host, "embed", "m", ["short", "some words " * 100])
    assert caught.value.needed_tokens == pytest.approx(200, rel=0.05)
    assert (caught.value.limit_tokens, "num_batch" in str(caught.value.hint)) == (None, True)
    assert "(text 2 of 2, the longest of 2 in one request)" in str(caught.value)
    assert "some words" not in str(caught.value)


@pytest.mark.parametrize("words", [200, 20_000])
def test_a_text_is_named_by_its_number_among_all_that_were_given(
    fake_daemon: FakeDaemon, ask: Any, words: int
) -> None:
    """How many go in one request nobody sees; a long one goes alone."""
    fake_daemon.context_length = 100
    texts = ["short"] * 299 + ["word " * words]
    with pytest.raises(ContextOverflowError, match=r"\(text 300 of 300[,)]"):
        ask(fake_daemon.host, "embed", "m", texts)


@pytest.mark.parametrize("method", ["chat", "embed"])
def test_a_model_that_is_not_to_stay_is_estimated_with_too(
    fake_daemon: FakeDaemon, ask: Any, method: str
) -> None:
    """It stays for as long as that takes, and leaves with the last part."""
    fake_daemon.script, fake_daemon.context_length = counts_words, 100
    with pytest.raises(ContextOverflowError, match="the limit is 100") as caught:
        ask(fake_daemon.host, method, "m", "some words " * 100, keep_alive=0)
    assert caught.value.needed_tokens == pytest.approx(200, rel=0.05)
    assert fake_daemon.left == {"m:latest"}


@pytest.mark.parametrize("method", ["generate", "chat"])
def test_how_much_was_cut_is_estimated(fake_daemon: FakeDaemon, ask: Any, method: str) -> None:
    """Where the daemon tells no numbers; and it is said that they are none of its own."""
    fake_daemon.script, fake_daemon.context_length = counts_words, 500
    reply = ask(fake_daemon.host, method, "m", "some words " * 1000, truncate=True)
    assert reply.cut.is_estimate
    assert reply.cut.needed_tokens == pytest.approx(2000, rel=0.05)
    last = fake_daemon.questions[-1]
    assert (last["truncate"], last["shift"]) == (True, False)


def test_how_much_was_cut_may_not_be_known(fake_daemon: FakeDaemon, ask: Any) -> None:
    """Nothing is invented where the parts of the prompt cannot be counted."""
    fake_daemon.script, fake_daemon.context_length = counts_words, 0
    reply = ask(fake_daemon.host, "chat", "m", "hi", truncate=True)
    assert reply.cut == Cut(needed_tokens=None, kept_tokens=1)
    assert reply.cut.dropped_tokens is None


@pytest.mark.parametrize("method", ["generate", "chat", "stream"])
def test_a_shorter_context_than_was_asked_for_is_an_error(
    fake_daemon: FakeDaemon, ask: Any, method: str
) -> None:
    """The daemon takes what the model was trained for, and says so in ``ps`` only."""
    fake_daemon.context_length = 2048
    with pytest.raises(ContextReducedError, match="context of 2048") as caught:
        ask(fake_daemon.host, method, "m", "hi", options={"num_ctx": 8192})
    assert (caught.value.asked_tokens, caught.value.used_tokens) == (8192, 2048)
    ask(fake_daemon.host, method, "m", "hi", options={"num_ctx": 2048})
    ask(fake_daemon.host, method, "m", "hi", options={"num_ctx": 100})


def test_the_context_is_looked_at_once(fake_daemon: FakeDaemon) -> None:
    """A model and a length need one look, and only where a length was asked for."""
    with Client(fake_daemon.host) as client:
        client.chat("m", "hi")
        for _ in range(3):
            client.chat("m", "hi", options={"num_ctx": 64})
    assert [asked.path for asked in fake_daemon.asked].count("/api/ps") == 1


@pytest.mark.parametrize("status", [403, 503, 200], ids=["forbidden", "busy", "odd"])
def test_who_does_not_tell_the_context_spoils_no_answer(ask: Any, status: int) -> None:
    """A gateway that lets questions through and nothing else."""

    def gateway(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/ps":
            return httpx.Response(status, json={"models": "none of your business"})
        return httpx.Response(200, json={"message": {"content": "Hello!"}, "done": True})

    reply = ask("127.0.0.1:9", "chat", "m", "hi", handler=gateway, options={"num_ctx": 64})
    assert reply.text == "Hello!"


@pytest.mark.parametrize("name", ["m", "m:latest", "library/m", "registry.ollama.ai/library/m"])
def test_a_model_is_known_by_all_its_names(ask: Any, name: str) -> None:
    """The daemon lists it by the shortest."""

    def lists(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/ps":
            running = {"name": "m:latest", "context_length": 2048}
            return httpx.Response(200, json={"models": [running]})
        return httpx.Response(200, json={"message": {"content": "Hello!"}, "done": True})

    with pytest.raises(ContextReducedError):
        ask("127.0.0.1:9", "chat", name, "hi", handler=lists, options={"num_ctx": 8192})


@pytest.mark.parametrize("lengths", [(4096, 8192), (8192, 4096)])
def test_the_runner_of_before_is_not_blamed(ask: Any, lengths: tuple[int, int]) -> None:
    """A tag that was made anew is listed twice until the old one leaves memory, in any order."""

    def lists(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/ps":
            running = [{"name": "m:latest", "context_length": length} for length in lengths]
            return httpx.Response(200, json={"models": running})
        return httpx.Response(200, json={"message": {"content": "Hello!"}, "done": True})

    asked: dict[str, Any] = {"handler": lists, "options": {"num_ctx": 8192}}
    assert ask("127.0.0.1:9", "chat", "m", "hi", **asked).text == "Hello!"
    asked["options"] = {"num_ctx": 8193}
    with pytest.raises(ContextReducedError, match="context of 8192"):
        ask("127.0.0.1:9", "chat", "m", "hi", **asked)


def test_an_answer_that_hit_its_limit_says_so(fake_daemon: FakeDaemon, ask: Any) -> None:
    """``length`` is a reason of its own."""
    assert not ask(fake_daemon.host, "chat", "m", "hi").hit_limit
    fake_daemon.final["done_reason"] = "length"
    assert ask(fake_daemon.host, "chat", "m", "hi").hit_limit


def test_a_model_that_gives_no_vectors_is_named(ask: Any) -> None:
    """What the runner says is how to start it, which is not the user's to do."""
    said = "This server does not support embeddings. Start it with `--embeddings`"

    def handler(_: httpx.Request) -> httpx.Response:
        return httpx.Response(501, json={"error": said})

    with pytest.raises(UnsupportedFeatureError, match="'m' is no embedding model") as caught:
        ask("127.0.0.1:9", "embed", "m", "hi", handler=handler)
    assert "ollama-bridge pull" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        ((503, "server busy, please try again"), DaemonBusyError),
        ((429, "too many"), DaemonBusyError),
        ((502, "bad gateway"), DaemonBusyError),
        ((400, '"m" does not support thinking'), UnsupportedFeatureError),
        ((400, "registry.ollama.ai/library/m does not support tools"), UnsupportedFeatureError),
    ],
)
def test_refusals_have_kinds(
    fake_daemon: FakeDaemon, ask: Any, refusal: tuple[int, str], kind: type[Exception]
) -> None:
    """A daemon that is busy, and a model that cannot."""
    fake_daemon.script = lambda asked: Turn(refusal=refusal)
    with pytest.raises(kind) as caught:
        ask(fake_daemon.host, "chat", "m", "hi")
    assert caught.value.hint  # type: ignore[attr-defined]


def test_thinking_survives_a_break(fake_daemon: FakeDaemon, ask: Any) -> None:
    """What had been thought is in the error, beside the text."""
    fake_daemon.thinking = ["Let me", " see"]
    fake_daemon.fault = Fault.NO_DONE
    with pytest.raises(StreamBrokenError) as caught:
        ask(fake_daemon.host, "chat", "m", "hi")
    assert (caught.value.partial_thinking, caught.value.partial_text) == ("Let me see", "Hello!")


@pytest.fixture
def ticks() -> Iterator[float]:
    """A clock that is one second further at every look."""
    return iter(float(second) for second in range(100))


def lines(*events: dict[str, Any]) -> list[bytes]:
    return [json.dumps(event).encode() for event in events]


@pytest.mark.parametrize("splits", [True, False], ids=["by the daemon", "by us"])
def test_times_and_tokens_to_the_first_thought_and_answer(
    ticks: Iterator[float], splits: bool
) -> None:
    """From asking on, whoever splits the thinking off; looked at when they come."""
    assembler = ReplyAssembler("m", now_s=lambda: next(ticks))
    if splits:
        came = [{"thinking": "a"}, {"thinking": "b"}, {"response": "c"}, {"response": "d"}]
    else:
        came = [{"response": "<think>a"}, {"response": "b</think>"}, {"response": "c"}]
    events = [event for line in lines(*came, {"done": True}) for event in assembler.feed(line)]
    assert isinstance(events[-1], Done)
    pace = events[-1].reply.pace
    assert pace is not None
    assert (pace.first_thinking_s, pace.first_text_s, pace.whole_s) == (1.0, 2.0, 3.0)
    assert (pace.tokens_to_thinking, pace.tokens_to_text) == (1, 3)


def test_the_time_of_an_attempt_that_failed_counts() -> None:
    """The caller waited for it, too."""
    ticks = iter(float(second) for second in range(0, 1000, 10))
    call = calls.chat("m", "hi", Asking(), system=None, tools=None)
    answering = Answering(
        call, Timeouts(), Retries(pause_s=0.0), gives_out=False, now_s=lambda: next(ticks)
    )
    answering.recover(DaemonUnreachableError("gone"))
    [line] = lines({"response": "a", "done": True})
    *_, done = answering.feed(line)
    assert isinstance(done, Done)
    assert done.reply.pace is not None
    # After looks at the beginning, for the limit of the whole, and before the second attempt.
    assert (done.reply.pace.first_text_s, done.reply.pace.whole_s) == (30.0, 40.0)


def test_an_answer_without_thinking_has_no_time_of_it(fake_daemon: FakeDaemon, ask: Any) -> None:
    """None where nothing came."""
    pace = ask(fake_daemon.host, "chat", "m", "hi").pace
    assert (pace.first_thinking_s, pace.tokens_to_thinking) == (None, None)
    assert 0 < pace.first_text_s <= pace.whole_s
    assert pace.tokens_to_text == 1
