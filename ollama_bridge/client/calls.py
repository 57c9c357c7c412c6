"""Requests that both clients make, as values; what comes back is read in ``values``."""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from typing import Any

from ollama_bridge.client.options import Options, check_options
from ollama_bridge.client.requests import (
    Asking,
    Images,
    KeepAlive,
    MessageLike,
    ToolLike,
    check_digest,
    check_kinds,
    checked_model,
    common_fields,
    encoded_image,
    message_list,
    tool_list,
)
from ollama_bridge.client.steps import Steps
from ollama_bridge.client.values import NextToken, Reply
from ollama_bridge.client.wire.exchange import Answer, Call, check_status
from ollama_bridge.errors import ConfigError, ReplyInvalidError

VERSION = Call("GET", "/api/version")
LIST = Call("GET", "/api/tags")
PS = Call("GET", "/api/ps")

# Forces the sampler to a text token. The distribution that is reported stays the raw one, the end
# token included, where the daemon would otherwise report nothing at all.
_FORCING_FORMAT: Mapping[str, Any] = {"type": "string", "enum": ["a"]}


def generate(
    model: str,
    prompt: str,
    asking: Asking,
    *,
    system: str | None = None,
    suffix: str | None = None,
    template: str | None = None,
    raw: bool = False,
    images: Images = None,
) -> Call:
    """``/api/generate``."""
    extra = {"system": system, "suffix": suffix, "template": template}
    check_kinds({"prompt": prompt, "raw": raw, "images": images, **extra})
    body = {"model": checked_model(model), "prompt": prompt, **common_fields(asking)}
    body |= _those_set(extra)
    if raw:
        body["raw"] = True
    if images:
        body["images"] = [encoded_image(image) for image in images]
    return Call("POST", "/api/generate", json=body, model=model, patience="model")


def chat(
    model: str,
    messages: str | Sequence[MessageLike],
    asking: Asking,
    *,
    system: str | None,
    tools: Sequence[ToolLike] | None,
) -> Call:
    """``/api/chat``."""
    check_kinds({"system": system, "tools": tools})
    body = {
        "model": checked_model(model),
        "messages": message_list(messages, system=system),
        **common_fields(asking),
    }
    if tools:
        body["tools"] = tool_list(tools)
    return Call("POST", "/api/chat", json=body, model=model, patience="model")


def embed(
    model: str,
    texts: str | Sequence[str],
    *,
    truncate: bool,
    dimensions: int | None,
    options: Options | None,
    keep_alive: KeepAlive,
) -> Call:
    """``/api/embed``."""
    extra = {"dimensions": dimensions, "keep_alive": keep_alive}
    check_kinds({"truncate": truncate, **extra})
    if dimensions is not None and dimensions < 1:  # Ollama would say nothing, and cut nothing
        raise ConfigError(f"dimensions is {dimensions}", hint="1 or more, or leave it out")
    found = [texts] if isinstance(texts, str) else list(texts)
    if not all(isinstance(text, str) and text for text in found):
        raise ConfigError("a text to embed is empty or not a text", hint="leave empty texts out")
    body = {
        "model": checked_model(model),
        "input": found,
        "truncate": truncate,
        "options": check_options(options or {}),
        **_those_set(extra),
    }
    return Call("POST", "/api/embed", json=body, model=model, patience="model")


def render(
    model: str,
    messages: str | Sequence[MessageLike],
    *,
    think: bool | str | None,
    tools: Sequence[ToolLike] | None,
) -> Call:
    """``/api/chat`` that renders and does not answer."""
    body: dict[str, Any] = {
        "model": model,
        "messages": message_list(messages),
        "stream": False,
        "truncate": False,
        "shift": False,  # as questions say: with another value 0.34 loads the model anew
        "_debug_render_only": True,
        # The flag is not documented: a daemon without it answers, and then shortly.
        "options": {"num_predict": 1},
    }
    if think is not None:
        body["think"] = think
    if tools:
        body["tools"] = tool_list(tools)
    return Call("POST", "/api/chat", json=body, model=model, patience="model")


def next_token(
    model: str, raw_prompt: str, *, top: int, options: Options | None, forced: bool
) -> Call:
    """One token behind a raw prompt, with its rivals."""
    if not 1 <= top <= 20:
        raise ConfigError(f"top is {top}; Ollama reports 1 to 20 tokens")
    asking = Asking(
        # A stop string would hold back tokens, and their log-probabilities with them.
        options={"temperature": 0, **(options or {}), "num_predict": 1, "stop": []},
        think=False,  # a prompt that opens <think> would hide the token
        format=_FORCING_FORMAT if forced else None,
        logprobs=True,
        top_logprobs=top,
    )
    return generate(model, raw_prompt, asking, raw=True)


def find_next_token(
    model: str, raw_prompt: str, *, top: int, options: Options | None
) -> Steps[Call, NextToken]:
    """The distribution behind a raw prompt, forced out of the daemon where it has to be.

    Raises:
        ReplyInvalidError: the daemon reports no log-probabilities.
    """
    # The daemon reports nothing where it draws the end token or half a character; forced to draw
    # something else, it reports the same distribution.
    for forced in (False, True):
        reply: Reply = yield next_token(model, raw_prompt, top=top, options=options, forced=forced)
        likeliest = reply.logprobs[0].top if reply.logprobs else ()
        if likeliest and not any(math.isnan(entry.logprob) for entry in likeliest):
            return NextToken(reply.prompt_tokens, likeliest, "" if forced else reply.text)
    raise ReplyInvalidError(
        f"the daemon reports no log-probabilities for {model!r}",
        hint="use Ollama 0.12.11 or newer",
        model=model,
    )


def show(model: str, *, verbose: bool) -> Call:
    """``/api/show``."""
    body = {"model": checked_model(model), **({"verbose": True} if verbose else {})}
    return Call("POST", "/api/show", json=body, model=model)


def copy(source: str, destination: str) -> Call:
    """``/api/copy``."""
    body = {"source": checked_model(source), "destination": checked_model(destination)}
    return Call("POST", "/api/copy", json=body, model=source)


def delete(model: str) -> Call:
    """``/api/delete``."""
    return Call("DELETE", "/api/delete", json={"model": checked_model(model)}, model=model)


def load(model: str, *, options: Options | None, keep_alive: KeepAlive) -> Call:
    """No prompt: the model comes into memory."""
    body = {
        "model": checked_model(model),
        "stream": False,
        "shift": False,  # as questions say: to 0.34 a model that may shift is another one
        "options": check_options(options or {}),
        **_those_set({"keep_alive": keep_alive}),
    }
    return Call("POST", "/api/generate", json=body, model=model, patience="model")


def unload(model: str) -> Call:
    """An empty prompt with keep_alive 0: the model leaves memory."""
    body = {"model": checked_model(model), "keep_alive": 0, "stream": False}
    return Call("POST", "/api/generate", json=body, model=model)


def has_blob(digest: str) -> Call:
    """``HEAD /api/blobs``."""
    return Call("HEAD", f"/api/blobs/{check_digest(digest)}")


def upload(digest: str, size_bytes: int, content: Iterable[bytes] | AsyncIterable[bytes]) -> Call:
    """``POST /api/blobs``: the daemon reads the file, then says whether the digest is its own."""
    return Call(
        "POST",
        f"/api/blobs/{check_digest(digest)}",
        content=content,
        headers={
            "Content-Length": str(size_bytes),
            "Content-Type": "application/octet-stream",
        },
        patience="files",
    )


def create(request: Mapping[str, Any]) -> Call:
    """``/api/create``, streamed."""
    model = request.get("model")
    if not isinstance(model, str) or not model:
        raise ConfigError("a create request names no model", hint="add its tag under 'model'")
    body = {**request, "stream": True}
    return Call("POST", "/api/create", json=body, model=model, patience="files")


def pull(model: str, *, insecure: bool) -> Call:
    """``/api/pull``, streamed."""
    return _transfer("/api/pull", model, insecure=insecure)


def push(model: str, *, insecure: bool) -> Call:
    """``/api/push``, streamed."""
    return _transfer("/api/push", model, insecure=insecure)


def _transfer(path: str, model: str, *, insecure: bool) -> Call:
    body = {"model": checked_model(model), "stream": True}
    if insecure:
        body["insecure"] = True
    return Call("POST", path, json=body, model=model, patience="files")


def blob_present(answer: Answer, call: Call) -> bool:
    """Read the answer to :func:`has_blob`.

    Raises:
        DaemonError: it is neither yes nor no.
    """
    if answer.status_code == 404:
        return False
    check_status(answer, call)
    return True


def _those_set(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
