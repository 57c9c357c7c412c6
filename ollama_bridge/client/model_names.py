"""Which model a name means: parts of it may be left out, and its case does not count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ollama_bridge.client.wire.refusals import missing_model

if TYPE_CHECKING:
    from ollama_bridge.client.values import ModelSummary


def name_key(model: str) -> str:
    """What all names of one model have in common, whatever parts are left out, in any case."""
    return _short_name(model.casefold())


def find_model(models: Sequence[ModelSummary], name: str) -> ModelSummary | None:
    """The model that a daemon means by a name, of those that it lists; None: it has no such.

    Names that differ in case alone are of one model, but older daemons made two: of those it is
    the one that is listed so.
    """
    same = [one for one in models if name_key(one.name) == name_key(name)]
    exact = (one for one in same if _short_name(one.name) == _short_name(name))
    return next(exact, same[0] if same else None)


def require_model(
    models: Sequence[ModelSummary], name: str, *, address: str | None = None
) -> ModelSummary:
    """:func:`find_model`, where there has to be one.

    Args:
        name: Of the model, as Ollama takes it.
        address: The daemon's, where several are asked.

    Raises:
        ModelNotFoundError: it is not there.
    """
    if (found := find_model(models, name)) is None:
        raise missing_model(name, address=address)
    return found


def _short_name(model: str) -> str:
    name = model.removeprefix("registry.ollama.ai/").removeprefix("library/")
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"
