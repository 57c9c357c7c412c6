"""Limits and retries as a client is given them: who comes from another client gives a number."""

from __future__ import annotations

from ollama_bridge.client.wire.exchange import Timeouts
from ollama_bridge.client.wire.retries import Retries
from ollama_bridge.errors import ConfigError


def timeouts_given(timeouts: Timeouts | None) -> Timeouts:
    """Those, or the default ones.

    Raises:
        ConfigError: it is no ``Timeouts``.
    """
    if timeouts is None or isinstance(timeouts, Timeouts):
        return timeouts or Timeouts()
    limit = timeouts if isinstance(timeouts, int | float) else 60
    raise ConfigError(
        f"timeouts={timeouts!r} is not one limit a phase",
        hint=f"Timeouts(total_s={limit}), of ollama_bridge.client, limits a whole call",
    )


def retries_given(retries: Retries | None) -> Retries:
    """Those, or the default ones.

    Raises:
        ConfigError: it is no ``Retries``.
    """
    if retries is None or isinstance(retries, Retries):
        return retries or Retries()
    attempts = 1 + retries if isinstance(retries, int) else 3
    raise ConfigError(
        f"retries={retries!r} does not say how",
        hint=f"Retries(attempts={attempts}), of ollama_bridge.client, counts the first one, too",
    )
