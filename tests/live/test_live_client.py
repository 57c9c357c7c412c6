"""The client against a real daemon: answers, refusals, and crashes in the middle of an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from ollama_bridge.artifacts import digest_file
from ollama_bridge.client import AsyncClient, Client, Done, Text, Timeouts
from ollama_bridge.daemon.process import PrivateDaemon
from ollama_bridge.errors import (
    ContextOverflowError,
    DaemonError,
    ModelNotFoundError,
    RequestRejectedError,
    RunnerCrashedError,
    StreamBrokenError,
)

pytestmark = pytest.mark.live

TAG = "client-test:1"
OPTIONS = {"num_thread": 1, "num_ctx": 512, "temperature": 0, "num_predict": 16}
QUESTION = "What is the capital of France?"
TURN = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
# Loading on a busy machine is slow, and no test here is about that.
LIMITS = Timeouts(load_s=120.0, between_tokens_s=60.0)


def register(client: Client, gguf: Path) -> list[str]:
    """Upload and create; returns the statuses."""
    digest = f"sha256:{digest_file(gguf)}"
    if not client.has_blob(digest):
        client.upload_blob(gguf, digest)
    assert client.has_blob(digest)
    statuses: list[str] = []
    client.create({"model": TAG, "files": {"model.gguf": digest}}, on_status=statuses.append)
    return statuses


@pytest.fixture(scope="module")
def client(daemon: PrivateDaemon, teacher_gguf: Path) -> Iterator[Client]:
    """A client of a daemon that has the model."""
    with Client(daemon.host, timeouts=LIMITS) as client:
        assert register(client, teacher_gguf)[-1] == "success"
        yield client
        client.unload(TAG)
        client.delete(TAG)
        assert TAG not in {model.name for model in client.list()}


def test_a_chat_is_answered(client: Client) -> None:
    """Text, end, counts and times come from a real answer; ``ps`` shows the model."""
    reply = client.chat(TAG, QUESTION, options=OPTIONS)
    assert "Paris" in reply.text
    assert reply.done_reason == "stop"
    assert reply.model == TAG
    assert reply.prompt_tokens > 5
    assert 0 < reply.generated_tokens <= 16
    assert reply.timings.total_s >= reply.timings.generate_s > 0
    (running,) = [model for model in client.ps() if model.name == TAG]
    assert running.context_length == 512


def test_a_stream_says_what_a_reply_says(client: Client) -> None:
    """Its pieces join to the same text, and it ends in Done."""
    *pieces, done = client.stream(TAG, QUESTION, options=OPTIONS)
    assert isinstance(done, Done)
    assert len(pieces) > 2
    text = "".join(event.text for event in pieces if isinstance(event, Text))
    assert text == done.reply.text == client.chat(TAG, QUESTION, options=OPTIONS).text


def test_both_clients_get_the_same(client: Client) -> None:
    """The asyncio client asks the same daemon the same question."""

    async def ask() -> tuple[str, str]:
        async with AsyncClient(client.host, timeouts=LIMITS) as other:
            reply = await other.chat(TAG, QUESTION, options=OPTIONS)
            *_, last = [event async for event in other.stream(TAG, QUESTION, options=OPTIONS)]
            assert isinstance(last, Done)
            return reply.text, last.reply.text

    text = client.chat(TAG, QUESTION, options=OPTIONS).text
    assert asyncio.run(ask()) == (text, text)


def test_a_prompt_is_rendered_and_not_answered(client: Client) -> None:
    """``render`` gives the prompt that the daemon makes of a conversation."""
    assert client.render(TAG, "Hi") == TURN


def test_log_probabilities_belong_to_the_text(client: Client) -> None:
    """Raw and without stops, the tokens join to the answer and carry their rivals."""
    options = {**OPTIONS, "num_predict": 4, "stop": []}
    reply = client.generate(TAG, TURN, raw=True, options=options, logprobs=True, top_logprobs=3)
    assert reply.logprobs is not None
    assert "".join(entry.token for entry in reply.logprobs) == reply.text
    assert all(len(entry.top) == 3 and entry.logprob <= 0 for entry in reply.logprobs)


def test_next_token_where_text_follows(client: Client) -> None:
    """The likeliest token is what a greedy answer begins with."""
    options = {"num_thread": 1, "num_ctx": 512}
    found = client.next_token(TAG, TURN, top=5, options=options)
    assert len(found.top) == 5
    assert found.chosen == found.top[0].token != ""
    assert [entry.logprob for entry in found.top] == sorted(
        (entry.logprob for entry in found.top), reverse=True
    )
    hotter = client.next_token(TAG, TURN, top=5, options={**options, "temperature": 1.5, "seed": 1})
    assert hotter.top[0].logprob == pytest.approx(found.top[0].logprob, abs=0.01)


def test_next_token_where_the_answer_ends(client: Client) -> None:
    """Where the end token is likeliest the daemon reports nothing unless it is forced."""
    options = {"num_thread": 1, "num_ctx": 512}
    prompt = TURN + "Hello! How can I help you today?"
    plain = client.generate(
        TAG,
        prompt,
        raw=True,
        options={**options, "num_predict": 1, "temperature": 0, "stop": []},
        logprobs=True,
        top_logprobs=5,
    )
    assert (plain.text, plain.logprobs) == ("", None)
    found = client.next_token(TAG, prompt, top=5, options=options)
    assert found.prompt_tokens == plain.prompt_tokens
    assert found.chosen == ""
    assert found.top[0].token in ("", "<|im_end|>")  # by the daemon's version
    assert len(found.top) == 5


def test_an_overflow_is_an_error_with_numbers(client: Client) -> None:
    """A prompt that does not fit is not cut: the error says by how much."""
    for ask in (client.generate, client.chat):
        with pytest.raises(ContextOverflowError, match=r"\d+ tokens, the limit is 512"):
            ask(TAG, "word " * 2000, options=OPTIONS)


def test_refusals_are_typed(client: Client, tmp_path: Path) -> None:
    """A missing model, an ability that it lacks, a wrong digest, a file that is not there."""
    with pytest.raises(ModelNotFoundError):
        client.chat("absent:1b", "Hi")
    for method in (client.show, client.delete, client.unload):
        with pytest.raises(ModelNotFoundError):
            method("absent:1b")
    with pytest.raises(RequestRejectedError, match="does not support thinking"):
        client.chat(TAG, "Hi", think=True)
    path = tmp_path / "f"
    path.write_bytes(b"x" * 3_000_000)
    absent = "sha256:" + "0" * 64
    with pytest.raises(RequestRejectedError, match="digest mismatch"):
        client.upload_blob(path, absent)
    assert not client.has_blob(absent)
    with pytest.raises(DaemonError):
        client.create({"model": "half:1", "files": {"model.gguf": absent}})
    assert "half:1" not in {model.name for model in client.list()}


def test_a_copy_is_the_same_model(client: Client) -> None:
    """The second name has the first one's digest, and goes without it."""
    client.copy(TAG, "client-copy:1")
    listed = {model.name: model.digest for model in client.list()}
    assert listed["client-copy:1"] == listed[TAG]
    client.delete("client-copy:1")
    assert client.show(TAG).modelfile.startswith("#")


def test_crashes_in_mid_answer_are_told(
    ollama_binary: Path, teacher_gguf: Path, tmp_path: Path
) -> None:
    """A runner, then a daemon killed in mid-answer: an error with the text so far, both times."""
    options = {**OPTIONS, "num_predict": 400}
    with (
        PrivateDaemon(tmp_path / "root", binary=ollama_binary) as daemon,
        Client(daemon.host, timeouts=LIMITS) as client,
    ):
        register(client, teacher_gguf)

        def break_by(kill: str) -> DaemonError:
            said = ""
            with pytest.raises(DaemonError) as caught:
                for event in client.stream(TAG, "Tell a long story.", options=options):
                    if isinstance(event, Text) and not said:
                        said = event.text
                        for process in daemon.runners() if kill == "runner" else ():
                            process.kill()
                        if kill == "daemon":
                            daemon.kill()
            assert said
            assert caught.value.partial_text.startswith(said)
            return caught.value

        assert isinstance(break_by("runner"), RunnerCrashedError)
        assert client.chat(TAG, QUESTION, options=OPTIONS).done_reason == "stop"
        assert isinstance(break_by("daemon"), StreamBrokenError)
        daemon.restart()
        assert client.chat(TAG, QUESTION, options=OPTIONS).done_reason == "stop"
