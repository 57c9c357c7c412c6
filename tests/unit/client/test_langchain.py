"""LangChain's ChatOllama with the drop-in under it, and what it does not promise without."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import ollama
import pytest
from fakes.daemon import Asked, FakeDaemon, Fault, Turn
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM

from ollama_bridge import compat
from ollama_bridge.client import Timeouts

ENOUGH = Timeouts(total_s=60.0)
SHORT = Timeouts(connect_s=5.0, load_s=0.0, first_token_s=0.2, between_tokens_s=0.2, total_s=5.0)

Ask = Callable[..., Any]


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with FakeDaemon() as found:
        yield found


def plain(host: str) -> Any:
    """As LangChain has it."""
    model = ChatOllama(model="m", base_url=f"http://{host}")
    try:
        return model.invoke("hi")
    finally:
        model._client.close()


def blocking(host: str, limits: Timeouts = ENOUGH) -> Any:
    """As docs/integrations.md shows it, with limits that a test can wait for."""
    model = ChatOllama(model="m", base_url=f"http://{host}")
    with compat.Client(host, timeouts=limits) as model._client:
        return model.invoke("hi")


def asynchronous(host: str, limits: Timeouts = ENOUGH) -> Any:
    async def ask() -> Any:
        model = ChatOllama(model="m", base_url=f"http://{host}")
        async with compat.AsyncClient(host, timeouts=limits) as model._async_client:
            return await model.ainvoke("hi")

    return asyncio.run(ask())


BOTH = pytest.mark.parametrize("ask", [blocking, asynchronous])


@BOTH
def test_an_answer_is_as_before(daemon: FakeDaemon, ask: Ask) -> None:
    """With the counts that LangChain reads; a prompt that does not fit is not cut unsaid."""
    before, now = plain(daemon.host), ask(daemon.host)
    assert (now.content, now.usage_metadata) == (before.content, before.usage_metadata)
    without, asked = daemon.questions
    assert (asked["truncate"], asked["shift"]) == (False, False)
    assert not {"truncate", "shift"} & set(without)


@BOTH
def test_what_ended_too_soon_is_told(daemon: FakeDaemon, ask: Ask) -> None:
    """LangChain takes it for an answer."""
    daemon.fault = Fault.NO_DONE
    assert plain(daemon.host).content == "Hello!"
    with pytest.raises(ollama.ResponseError) as broken:
        ask(daemon.host)
    assert broken.value.partial_text == "Hello!"  # type: ignore[attr-defined]


@BOTH
def test_a_daemon_that_says_nothing_is_not_waited_for(daemon: FakeDaemon, ask: Ask) -> None:
    """LangChain's own client waits for ever."""
    daemon.fault = Fault.SILENT
    with pytest.raises(ollama.ResponseError, match="gave no answer"):
        ask(daemon.host, SHORT)
    assert ChatOllama(model="m")._client._client.timeout.read is None


@BOTH
def test_what_failed_in_passing_is_asked_again(daemon: FakeDaemon, ask: Ask) -> None:
    """LangChain hands the error on."""
    faults = iter((Fault.BUSY, Fault.BUSY, None))

    def meet(_: Asked) -> Turn:
        return Turn(fault=next(faults))

    daemon.script = meet
    with pytest.raises(ollama.ResponseError):
        plain(daemon.host)
    assert ask(daemon.host).content == "Hello!"


def test_embeddings_and_completions_go_through_it_too(daemon: FakeDaemon) -> None:
    """A text that is too long to embed is not cut unsaid."""
    vectors, completions = OllamaEmbeddings(model="m"), OllamaLLM(model="m")
    daemon.context_length = 2
    with compat.Client(daemon.host) as vectors._client:
        completions._client = vectors._client
        assert completions.invoke("hi") == "Hello!"
        assert daemon.questions[-1]["truncate"] is False
        assert vectors.embed_query("one two") == [2.0, 1.0]
        with pytest.raises(ollama.ResponseError, match="context"):
            vectors.embed_query("one two three")
