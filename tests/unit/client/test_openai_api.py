"""Chat completions of an OpenAI-compatible server: read whole, or one error of ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from ollama_bridge.client.openai_api import OpenAIClient, chat_completion, read_completion
from ollama_bridge.client.values import Reply, TopLogprob
from ollama_bridge.errors import (
    ConfigError,
    DaemonUnreachableError,
    ModelNotFoundError,
    ReplyInvalidError,
    RequestRejectedError,
)

URL = "http://127.0.0.1:8000/v1"
CALL = chat_completion(
    "big", [{"role": "user", "content": "hi"}], max_tokens=9, temperature=0, seed=3, top_logprobs=20
)


def completion(**changes: Any) -> dict[str, Any]:
    top = [{"token": "He", "logprob": -0.5, "bytes": [72, 101]}]
    choice = {
        "message": {"role": "assistant", "content": "He"},
        "finish_reason": "stop",
        "logprobs": {"content": [{**top[0], "top_logprobs": top}]},
    }
    usage = {"prompt_tokens": 4, "completion_tokens": 1}
    return {"model": "big", "choices": [{**choice, **changes}], "usage": usage}


def ask(handler: Callable[[httpx.Request], httpx.Response], *, url: str = URL) -> Reply:
    async def run() -> Reply:
        async with OpenAIClient(url, transport=httpx.MockTransport(handler)) as client:
            return await client.ask(CALL)

    return asyncio.run(run())


def test_an_answer_is_read_with_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent, the key in its header alone, and what comes of it."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("OLLAMA_API_KEY", "of another")
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=completion())

    reply = ask(answer)
    assert str(seen[0].url) == f"{URL}/chat/completions"
    assert seen[0].headers["authorization"] == "Bearer sk-secret"
    body = json.loads(seen[0].content)
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    assert (body["max_tokens"], body["seed"], body["top_logprobs"]) == (9, 3, 20)
    assert (reply.text, reply.done_reason, reply.prompt_tokens) == ("He", "stop", 4)
    assert reply.logprobs is not None
    assert reply.logprobs[0].top == (TopLogprob("He", -0.5, b"He"),)


@pytest.mark.parametrize(
    "message",
    [
        {"content": "five", "reasoning_content": "Hm.\n"},
        {"content": "five", "reasoning": "Hm."},
        {"content": "<think>\nHm.\n</think>\n\nfive"},
        {"content": "Hm.\n</think>\n\nfive"},  # the prompt has opened it
    ],
)
def test_thinking_is_told_from_the_answer(message: dict[str, str]) -> None:
    """Under the names that servers give it, and in tags."""
    reply = read_completion(completion(message=message), model="big")
    assert (reply.thinking, reply.text) == ("Hm.", "five")


@pytest.mark.parametrize("text", ["five", "in <think>Hm.</think> five", "Hm. So"])
def test_an_answer_without_a_thought_is_whole(text: str) -> None:
    """Tags that open within it are its text."""
    reply = read_completion(completion(message={"content": text}), model="big")
    assert (reply.thinking, reply.text) == ("", text)


def test_without_tokens_there_are_none() -> None:
    """A server that reports no log-probabilities."""
    assert read_completion(completion(logprobs=None), model="big").logprobs is None


@pytest.mark.parametrize(
    "data", [completion(finish_reason=None), {"choices": []}, {}, [], "x", {"choices": [3]}]
)
def test_half_an_answer_is_an_error(data: object) -> None:
    """No choice, or one that does not say how it ended."""
    with pytest.raises(ReplyInvalidError):
        read_completion(data, model="big")


@pytest.mark.parametrize(
    ("status", "message", "error", "hint"),
    [
        (401, "no key", RequestRejectedError, "set OPENAI_API_KEY"),
        (404, "model 'big' not found", ModelNotFoundError, f"curl {URL}/models"),
        (500, "boom", RequestRejectedError, None),
    ],
)
def test_a_refusal_says_what_to_do(
    status: int, message: str, error: type[RequestRejectedError], hint: str | None
) -> None:
    """And never advises on Ollama."""
    with pytest.raises(error) as caught:
        ask(lambda request: httpx.Response(status, json={"error": {"message": message}}))
    assert caught.value.status_code == status
    assert caught.value.hint is None if hint is None else hint in str(caught.value.hint)


def test_an_address_without_its_version_is_told() -> None:
    """There is no such path, whatever the model."""
    with pytest.raises(RequestRejectedError) as caught:
        ask(lambda request: httpx.Response(404, text="404 page"), url="http://127.0.0.1:8000/")
    assert caught.value.hint == f"write it with its version: {URL}"


def test_nobody_there_is_told() -> None:
    """With the address, and no word of a daemon to start."""

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(DaemonUnreachableError) as caught:
        ask(refuse)
    assert caught.value.hint == f"check that a server answers at {URL}"


def test_a_key_is_not_sent_in_the_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not over plain http to another machine; and an address needs its scheme."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with pytest.raises(ConfigError, match="unencrypted") as caught:
        OpenAIClient("http://192.0.2.1/v1")
    assert "OPENAI_API_KEY" in str(caught.value.hint)
    assert "sk-secret" not in str(caught.value)
    with pytest.raises(ConfigError, match="not a base URL"):
        OpenAIClient("api.example.com/v1")
