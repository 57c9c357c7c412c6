"""Requests of ollama-python as ours, with what keeps an answer whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ollama_bridge.client.options import check_options
from ollama_bridge.client.wire.exchange import Call, Patience

QUESTIONS = ("/api/generate", "/api/chat")
TRANSFERS = ("/api/pull", "/api/push", "/api/create")
_EMBEDDINGS = ("/api/embed", "/api/embeddings")
UNSTREAMED = (*_EMBEDDINGS, "/v1/systemone")  # questions whose answers do not stream


def call_of(
    method: str,
    path: str,
    *,
    json: dict[str, Any] | None = None,
    content: Any = None,
    headers: dict[str, str] | None = None,
    **unknown: Any,
) -> Call | None:
    """A request of ollama-python as one of ours; None: it goes to another server.

    Raises:
        TypeError: it has a part that would be lost.
    """
    if not path.startswith("/"):
        return None
    if unknown:
        raise TypeError(
            f"{method} {path}: this version of ollama_bridge.compat does not know what "
            f"ollama-python sends as {', '.join(unknown)}: call ollama.Client for this, or update "
            "ollama-bridge"
        )
    body = json
    patience: Patience = "reply"
    if path in QUESTIONS and body is not None:
        # Inside it is always a stream: only so do the limits hold and is the end seen.
        body = {"truncate": False, "shift": False} | body | {"stream": True}
        if body.get("options"):
            body["options"] = _checked(body["options"])
        patience = "model"
    elif path in TRANSFERS and body is not None:
        body = body | {"stream": True}
        patience = "files"
    elif path in _EMBEDDINGS and body is not None:
        body = {"truncate": False} | body
        if body.get("options"):
            body["options"] = _checked(body["options"])
        patience = "model"
    elif path in UNSTREAMED:
        patience = "model"
    elif content is not None:
        patience = "files"
    return Call(
        method,
        path,
        json=body,
        content=content,
        headers=headers or {},
        model=(body or {}).get("model"),
        patience=patience,
    )


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that the daemon knows; ``num_predict`` may be as endless as it is there.

    The limit of the whole call bounds the answer then.
    """
    limit = options.get("num_predict")
    if not isinstance(limit, int) or limit > 0:
        return check_options(options)
    return check_options({**options, "num_predict": None}) | {"num_predict": limit}
