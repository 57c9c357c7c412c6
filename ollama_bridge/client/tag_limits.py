"""What a tag itself says of its questions: the limit of an answer, and whether it takes images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ollama_bridge.client.blocking import Client
from ollama_bridge.client.model_check import SOON
from ollama_bridge.client.options import Options
from ollama_bridge.client.values import ModelDetails
from ollama_bridge.client.wire.refusals import no_images
from ollama_bridge.errors import (
    DaemonBusyError,
    DaemonError,
    DaemonTimeoutError,
    DaemonUnreachableError,
)


def with_own_limit(options: Options, details: ModelDetails) -> dict[str, Any]:
    """Options, with the ``num_predict`` that a tag sets itself where none is given.

    Without it the client would send its own, in place of the tag's.
    """
    own = details.own_limit
    given = {name: value for name, value in options.items() if value is not None}
    return ({} if own is None else {"num_predict": own}) | given


def fit_to_the_tags(requests: list[dict[str, Any]], hosts: Sequence[str | None]) -> bool:
    """Let questions that say none have the ``num_predict`` of their tags; changes their options.

    Args:
        hosts: Daemons that have the same models; None: ``OLLAMA_HOST``, else the default port.

    Returns:
        Whether the tags' own are known, or none is wanted.

    Raises:
        UnsupportedFeatureError: one has images that its tag does not take.
        DaemonError: no daemon can be asked.
    """
    open_ = [one for one in requests if (one.get("options") or {}).get("num_predict") is None]
    seen = {number: one for number, one in enumerate(requests, start=1) if _has_images(one)}
    models = {str(one["model"]) for one in (*open_, *seen.values())}
    details = _details(models, hosts) if models else {}
    for number, one in seen.items() if details else ():
        if details[str(one["model"])].takes_images is False:
            raise no_images(str(one["model"]), where=f"request {number}: ")
    for one in open_ if details else ():
        one["options"] = with_own_limit(one.get("options") or {}, details[str(one["model"])])
    return bool(details) or not open_


def _has_images(request: Mapping[str, Any]) -> bool:
    said = [request, *(request.get("messages") or ())]
    return any(isinstance(one, Mapping) and one.get("images") for one in said)


def _details(models: set[str], hosts: Sequence[str | None]) -> dict[str, ModelDetails]:
    """What the first daemon that tells knows of some models; empty if none that is there does.

    Raises:
        DaemonError: none can be asked.
    """
    away: DaemonError | None = None
    is_one_there = False
    for host in hosts:
        try:
            with Client(host, timeouts=SOON) as client:
                return {model: client.show(model) for model in models}
        except (DaemonUnreachableError, DaemonTimeoutError, DaemonBusyError) as error:
            away = error
        except DaemonError:  # a gateway that lets no such request through, or there is no model
            is_one_there = True
    if away is not None and not is_one_there:
        raise away
    return {}
