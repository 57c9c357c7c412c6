"""A pytest plugin: asks ollama-python's own tests of the drop-in instead (``-p`` loads it).

Their servers are made a daemon's in two points: what ours sends on top (``truncate``, ``shift``,
and ``stream`` also where a whole reply is wanted) is not compared, and a reply has its last event.
"""

from __future__ import annotations

import json
from typing import Any

import ollama._client
from pytest_httpserver import RequestHandler, RequestMatcher
from pytest_httpserver.httpserver import UNDEFINED

from ollama_bridge import compat

_OURS = ("truncate", "shift", "stream")


def _without_ours(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: item for name, item in value.items() if name not in _OURS}


def _match_json(self: RequestMatcher, request: Any) -> bool:
    if self.json is UNDEFINED:
        return True
    try:
        found = json.loads(request.data.decode())
    except ValueError:
        return False
    return bool(_without_ours(found) == _without_ours(self.json))


def _respond(self: RequestHandler, response_json: Any, status: int = 200, **rest: Any) -> None:
    if status == 200 and isinstance(response_json, dict):
        response_json = {"status": "success", **response_json, "done": True}
    self.respond_with_data(json.dumps(response_json), status, content_type="application/json")


ollama._client.Client = compat.Client  # type: ignore[misc]
ollama._client.AsyncClient = compat.AsyncClient  # type: ignore[misc]
RequestMatcher.match_json = _match_json  # type: ignore[method-assign]
RequestHandler.respond_with_json = _respond  # type: ignore[method-assign, assignment]
