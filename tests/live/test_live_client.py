"""The client against a real daemon: answers, refusals, and crashes in the middle of an answer."""

from __future__ import annotations

import asyncio
import random
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fakes.private_daemon import PrivateDaemon

from ollama_bridge.client import (
    AsyncClient,
    Client,
    Conversation,
    Done,
    Retries,
    Session,
    Text,
    Timeouts,
)
from ollama_bridge.client.wire.retries import NO_RETRIES
from ollama_bridge.digests import digest_file
from ollama_bridge.errors import (
    ContextOverflowError,
    ContextReducedError,
    DaemonError,
    ModelNotFoundError,
    RequestRejectedError,
    RunnerCrashedError,
    StreamBrokenError,
)

pytestmark = pytest.mark.live

TAG = "client-test:1"
EMBEDDER = "client-embedder:1"
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


def runners_of(daemon: PrivateDaemon) -> set[int]:
    """Ids of the processes in which a daemon has models loaded."""
    assert daemon.pid is not None
    return {child.pid for child in psutil.Process(daemon.pid).children(recursive=True)}


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


def test_what_belongs_to_a_question_loads_nothing_anew(
    ollama_binary: Path, teacher_gguf: Path, tmp_path: Path
) -> None:
    """Loading, rendering, scoring and the canary use the runner that answers."""
    with (
        PrivateDaemon(tmp_path / "daemon", binary=ollama_binary) as daemon,
        Client(daemon.host, timeouts=LIMITS) as client,
    ):
        register(client, teacher_gguf)
        client.load(TAG)
        runners = runners_of(daemon)
        for _ in range(2):
            client.chat(TAG, QUESTION, options={"num_predict": 1})
            client.next_token(TAG, client.render(TAG, QUESTION))
            with pytest.raises(ContextOverflowError):
                client.generate(TAG, "word " * 9000, raw=True)
        assert len(runners) == 1
        assert runners_of(daemon) == runners


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


def test_what_is_cut_is_told(client: Client) -> None:
    """Where cutting is allowed the daemon does it, and the reply says how much is gone."""
    prompt = "word " * 2000
    with pytest.raises(ContextOverflowError) as caught:
        client.generate(TAG, prompt, raw=True, options=OPTIONS)
    reply = client.generate(TAG, prompt, raw=True, options=OPTIONS, truncate=True)
    assert reply.cut is not None
    assert reply.cut.kept_tokens == reply.prompt_tokens <= 512
    if not caught.value.is_estimate:  # the daemon's own number
        assert reply.cut.needed_tokens == caught.value.needed_tokens
    assert caught.value.needed_tokens == pytest.approx(2000, rel=0.05)


def test_a_conversation_is_cut_without_loading_anew(client: Client, daemon: PrivateDaemon) -> None:
    """Its oldest turns are left out, and the runner of the questions before answers."""
    asked = {"role": "user", "content": "Say one more word. " * 4}
    said = [asked, {"role": "assistant", "content": "Word."}] * 30
    client.chat(TAG, QUESTION, options=OPTIONS)
    runners = runners_of(daemon)
    reply = client.chat(
        TAG, [*said, {"role": "user", "content": QUESTION}], options=OPTIONS, truncate=True
    )
    assert reply.cut is not None
    assert 256 < reply.cut.kept_tokens == reply.prompt_tokens < 512
    assert runners_of(daemon) == runners
    assert reply.prompt_tokens + reply.generated_tokens <= 512


def test_a_longer_context_than_the_model_has_is_an_error(client: Client) -> None:
    """Ollama loads it with the context that the model was trained for, and says nothing."""
    with pytest.raises(ContextReducedError) as caught:
        client.chat(TAG, "Hi", options={**OPTIONS, "num_ctx": 100_000})
    trained = client.show(TAG).model_info["llama.context_length"]
    assert caught.value.used_tokens == trained


def as_embedder(gguf: Path, folder: Path) -> Path:
    """The same file with a pooling of its vectors, which makes it a model for embeddings."""
    pooling, padding = b"llama.pooling_type", b"general.padding"
    entries = struct.pack("<Q", len(pooling)) + pooling + struct.pack("<II", 4, 1)
    entries += struct.pack("<Q", len(padding)) + padding + struct.pack("<I", 8)
    # Offsets stay right where whole units of the alignment are put in.
    fill = -(len(entries) + 8) % 32
    entries += struct.pack("<Q", fill) + b" " * fill
    whole = gguf.read_bytes()
    count = struct.unpack_from("<Q", whole, 16)[0] + 2
    path = folder / "embedder.gguf"
    path.write_bytes(whole[:16] + struct.pack("<Q", count) + entries + whole[24:])
    return path


def test_texts_become_vectors(client: Client, teacher_gguf: Path, tmp_path: Path) -> None:
    """Of length 1, the same for the same text; one that is too long is an error or named."""
    options = {"num_thread": 1, "num_ctx": 512}
    gguf = as_embedder(teacher_gguf, tmp_path)
    digest = f"sha256:{digest_file(gguf)}"
    client.upload_blob(gguf, digest)
    client.create({"model": EMBEDDER, "files": {"model.gguf": digest}})
    found = client.embed(EMBEDDER, ["A fox.", "A dog.", "A fox."], options=options)
    first, second, third = found.vectors
    assert first == pytest.approx(third, abs=1e-3)
    assert first != pytest.approx(second, abs=1e-3)
    assert sum(number * number for number in first) == pytest.approx(1.0, abs=1e-3)
    texts = ["A fox.", "word " * 2000]
    with pytest.raises(ContextOverflowError, match="about") as caught:
        client.embed(EMBEDDER, texts, options=options)
    assert caught.value.needed_tokens == pytest.approx(2000, rel=0.05)
    assert client.embed(EMBEDDER, texts, options=options, truncate=True).cut == (1,)
    client.unload(EMBEDDER)
    client.delete(EMBEDDER)


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


@pytest.mark.slow
def test_a_soak_loses_nothing(client: Client) -> None:
    """2,000 short questions over 8 tasks: each its own answer, memory and connections flat."""
    options = {**OPTIONS, "num_predict": 1}
    waiting = iter(range(2000))
    answered: dict[int, str] = {}
    sizes: list[int] = []

    async def ask(other: AsyncClient) -> None:
        for number in waiting:
            reply = await other.generate(TAG, f"{number % 7}", raw=True, options=options)
            answered[number] = reply.text
            if len(answered) % 500 == 0:
                sizes.append(psutil.Process().memory_info().rss)

    async def run() -> None:
        async with AsyncClient(client.host, timeouts=LIMITS) as other:
            await asyncio.gather(*(ask(other) for _ in range(8)))
            wire: Any = other._transport._send
            assert len(wire.__self__._pool.connections) <= 8
            assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())
    assert len(answered) == 2000
    assert all(len({answered[n] for n in range(k, 2000, 7)}) == 1 for k in range(7))
    assert sizes[-1] - sizes[0] < 8_000_000


def test_a_restart_between_questions_is_not_noticed(
    ollama_binary: Path, teacher_gguf: Path, tmp_path: Path
) -> None:
    """A connection that was kept is dead by then: no attempt is lost to it, crash or not."""
    with (
        PrivateDaemon(tmp_path / "root", binary=ollama_binary) as daemon,
        Client(daemon.host, timeouts=LIMITS, retries=NO_RETRIES) as client,
    ):
        register(client, teacher_gguf)
        assert client.chat(TAG, QUESTION, options=OPTIONS).done_reason == "stop"
        daemon.restart()
        assert client.chat(TAG, QUESTION, options=OPTIONS).done_reason == "stop"
        daemon.kill()
        daemon.start()
        assert client.chat(TAG, QUESTION, options=OPTIONS).done_reason == "stop"


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

        def survive() -> None:
            """The same where what broke off is continued: one answer, seamless."""
            said = ""
            going_on = Retries(resume=True)
            with Client(daemon.host, timeouts=LIMITS, retries=going_on) as other:
                for event in other.stream(TAG, "Tell a long story.", options=options):
                    if isinstance(event, Text):
                        for process in () if said else daemon.runners():
                            process.kill()
                        said += event.text
                    if isinstance(event, Done):
                        assert event.reply.resumed == 1
                        assert event.reply.text == said
            assert len(said) > 200  # a story: the first piece alone is a word

        survive()
        assert isinstance(break_by("runner"), RunnerCrashedError)
        assert client.chat(TAG, QUESTION, options=OPTIONS).done_reason == "stop"
        assert isinstance(break_by("daemon"), StreamBrokenError)
        daemon.restart()
        assert client.chat(TAG, QUESTION, options=OPTIONS).done_reason == "stop"


@pytest.mark.slow
@pytest.mark.parametrize("resume", [False, True], ids=["asked again", "continued"])
def test_ten_kills_at_random_points_of_a_conversation(
    resume: bool, ollama_binary: Path, teacher_gguf: Path, tmp_path: Path
) -> None:
    """Of runner and daemon in turns: no piece is lost or doubled, and no question stands twice."""
    story, chance = "Tell a long story.", random.Random(0)
    conversation = Conversation(TAG, options={**OPTIONS, "num_predict": 96})
    broken: list[tuple[int, str, str]] = []
    with (
        PrivateDaemon(tmp_path / "root", binary=ollama_binary) as daemon,
        Client(daemon.host, timeouts=LIMITS, retries=Retries(resume=resume)) as client,
    ):
        register(client, teacher_gguf)
        session = Session(client, conversation)
        session.ask(story)  # with loading, as after each kill
        began_s = time.monotonic()
        session.ask(story)
        answered_s = time.monotonic() - began_s

        def kill_runners() -> None:
            for process in daemon.runners():
                process.kill()

        def heard(events: Iterator[object]) -> Iterator[str]:
            return (event.text for event in events if isinstance(event, Text))

        for kill in range(10):
            session.clear()
            said = ""
            deadly = threading.Timer(
                chance.random() * answered_s, daemon.kill if kill % 2 else kill_runners
            )
            deadly.start()
            try:
                for piece in heard(session.stream(story)):
                    said += piece
            except DaemonError as error:
                broken.append((kill, said, error.partial_text))
            deadly.join()
            if kill % 2:
                daemon.restart()
            if broken and broken[-1][0] == kill:
                assert conversation.turns == []
                said = "".join(heard(session.retry()))
            (turn,) = conversation.turns
            assert turn.is_whole
            assert turn.answer == said != ""
    assert [said for _, said, _ in broken] == [told for *_, told in broken]
    assert any(said for _, said, _ in broken)
    assert len([kill for kill, *_ in broken if kill % 2]) >= 3
    # A runner that is killed is no end of an answer that may be continued.
    assert [kill for kill, *_ in broken if resume and kill % 2 == 0] == []
