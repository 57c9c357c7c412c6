"""A reply as plain JSON and back: what a batch's log keeps of an answer."""

from __future__ import annotations

from typing import Any

from ollama_bridge.client.values import (
    Cut,
    NextToken,
    Reply,
    Timings,
    TokenLogprob,
    ToolCall,
    TopLogprob,
)
from ollama_bridge.storage.journal import JSONRecord


def reply_to_record(reply: Reply) -> JSONRecord:
    """A reply; tokens as short lists, since there may be many.

    Left out are its pace, which is the client's own, and ``resumed``: a batch continues nothing.
    """
    record: JSONRecord = {
        "text": reply.text,
        "thinking": reply.thinking,
        "done_reason": reply.done_reason,
        "model": reply.model,
        "prompt_tokens": reply.prompt_tokens,
        "generated_tokens": reply.generated_tokens,
        "timings": vars(reply.timings),
    }
    if reply.logprobs is not None:
        record["logprobs"] = [
            [*_token(entry), [_token(top) for top in entry.top]] for entry in reply.logprobs
        ]
    if reply.cut is not None:
        record["cut"] = vars(reply.cut)
    if reply.cached_tokens is not None:
        record["cached_tokens"] = reply.cached_tokens
    if reply.tool_calls:
        record["tool_calls"] = [
            [call.name, dict(call.arguments), call.id] for call in reply.tool_calls
        ]
    return record


def reply_from_record(record: JSONRecord) -> Reply:
    """Read what :func:`reply_to_record` wrote."""
    logprobs = record.get("logprobs")
    return Reply(
        text=record["text"],
        thinking=record["thinking"],
        done_reason=record["done_reason"],
        model=record["model"],
        prompt_tokens=record["prompt_tokens"],
        generated_tokens=record["generated_tokens"],
        timings=Timings(**record["timings"]),
        logprobs=None
        if logprobs is None
        else tuple(
            TokenLogprob(token, logprob, _bytes(token, values), _tops(top))
            for token, logprob, values, top in logprobs
        ),
        tool_calls=tuple(ToolCall(*call) for call in record.get("tool_calls", ())),
        cut=Cut(**record["cut"]) if "cut" in record else None,
        cached_tokens=record.get("cached_tokens"),
    )


def next_token_to_record(found: NextToken) -> JSONRecord:
    """The distribution behind a prompt."""
    return {
        "prompt_tokens": found.prompt_tokens,
        "top": [_token(top) for top in found.top],
        "chosen": found.chosen,
    }


def next_token_from_record(record: JSONRecord) -> NextToken:
    """Read what :func:`next_token_to_record` wrote."""
    return NextToken(record["prompt_tokens"], _tops(record["top"]), record["chosen"])


def _token(entry: TokenLogprob | TopLogprob) -> list[Any]:
    # Daemons derive the bytes from the text, so they are nearly always the text's own (then 0).
    own = entry.bytes is None or entry.bytes == entry.token.encode(errors="replace")
    return [entry.token, entry.logprob, 0 if own or entry.bytes is None else list(entry.bytes)]


def _tops(entries: list[list[Any]]) -> tuple[TopLogprob, ...]:
    return tuple(
        TopLogprob(token, logprob, _bytes(token, values)) for token, logprob, values in entries
    )


def _bytes(token: str, values: Any) -> bytes:
    return bytes(values) if values else token.encode(errors="replace")
