"""Reads the values of the client from the daemon's JSON."""

from __future__ import annotations

import math

from ollama_bridge.client.values import (
    Embeddings,
    ModelDetails,
    ModelSummary,
    RunningModel,
    Timings,
    TokenLogprob,
    ToolCall,
    TopLogprob,
)
from ollama_bridge.client.wire.fields import Fields, read_fields
from ollama_bridge.errors import RenderingHiddenError, ReplyInvalidError


def read_models(data: object) -> list[ModelSummary]:
    """Read ``/api/tags``.

    Raises:
        ReplyInvalidError: as for every reader here, a field is missing or of the wrong kind.
    """
    return [
        ModelSummary(
            name=item.required_text("name"),
            digest=item.text("digest"),
            size_bytes=item.whole("size"),
            modified_at=item.text("modified_at"),
        )
        for item in read_fields(data, "/api/tags").items("models")
    ]


def read_details(data: object) -> ModelDetails:
    """Read ``/api/show``."""
    fields = read_fields(data, "/api/show")
    values = fields.mapping("thinking").get("values")  # truth values are among them
    fields.mapping("details"), fields.items("messages")  # are read of ``raw``
    return ModelDetails(
        modelfile=fields.text("modelfile"),
        template=fields.text("template"),
        system=fields.text("system"),
        parameters=fields.text("parameters"),
        model_info=fields.mapping("model_info"),
        capabilities=fields.texts("capabilities"),
        raw=fields.data,
        think_levels=tuple(value for value in values if isinstance(value, str))
        if isinstance(values, list)
        else (),
    )


def read_running(data: object) -> list[RunningModel]:
    """Read ``/api/ps``."""
    return [
        RunningModel(
            name=item.required_text("name"),
            size_bytes=item.whole("size"),
            size_vram_bytes=item.whole("size_vram"),
            context_length=item.whole("context_length"),
            expires_at=item.text("expires_at"),
            digest=item.text("digest"),
        )
        for item in read_fields(data, "/api/ps").items("models")
    ]


def read_embeddings(data: object, *, model: str, count: int) -> Embeddings:
    """Read ``/api/embed``; there have to be ``count`` vectors of one length."""
    fields = read_fields(data, "/api/embed")
    vectors = tuple(fields.vectors("embeddings"))
    if len(vectors) != count or len({len(vector) for vector in vectors}) > 1:
        raise ReplyInvalidError(
            f"the daemon sent {len(vectors)} vectors for {count} texts, or vectors of several "
            "lengths",
            hint="ask again; if it fails again, see the daemon's log",
            model=model,
        )
    return Embeddings(
        vectors,
        model=fields.text("model", model),
        prompt_tokens=fields.whole("prompt_eval_count"),
        timings=read_timings(fields),
    )


def read_version(data: object) -> str:
    """Read ``/api/version``."""
    return read_fields(data, "/api/version").required_text("version")


def read_rendered(data: object) -> str:
    """Read what ``_debug_render_only`` gives back."""
    info = read_fields(data, "/api/chat").inner("_debug_info")
    if not info.has("rendered_template"):
        raise RenderingHiddenError(
            "this daemon does not say how it renders a prompt", hint="use Ollama 0.24 or newer"
        )
    return info.text("rendered_template")


def read_logprobs(fields: Fields) -> tuple[TokenLogprob, ...]:
    """Read the ``logprobs`` of an event."""
    return tuple(
        TokenLogprob(
            token=item.text("token"),
            logprob=item.number("logprob", math.nan),
            bytes=item.bytes("bytes"),
            top=tuple(
                TopLogprob(top.text("token"), top.number("logprob", math.nan), top.bytes("bytes"))
                for top in item.items("top_logprobs")
            ),
        )
        for item in fields.items("logprobs")
    )


def read_tool_calls(fields: Fields) -> tuple[ToolCall, ...]:
    """Read the ``tool_calls`` of an event."""
    found = []
    for item in fields.items("tool_calls"):
        function = item.inner("function")
        name, arguments = function.required_text("name"), function.mapping("arguments")
        found.append(ToolCall(name, arguments, item.text("id")))
    return tuple(found)


def read_timings(fields: Fields) -> Timings:
    """Read the durations of a terminal event (nanoseconds there)."""
    return Timings(
        total_s=fields.number("total_duration") / 1e9,
        load_s=fields.number("load_duration") / 1e9,
        prompt_s=fields.number("prompt_eval_duration") / 1e9,
        generate_s=fields.number("eval_duration") / 1e9,
    )
