"""Loaded models in the words of ``ollama ps``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ollama_bridge.cli.loaded import processor, until

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (timedelta(seconds=-1), "Stopping..."),
        (timedelta(seconds=0.5), "Less than a second from now"),
        (timedelta(seconds=1), "1 second from now"),
        (timedelta(seconds=59), "59 seconds from now"),
        (timedelta(seconds=119), "About a minute from now"),
        (timedelta(minutes=4, seconds=59), "4 minutes from now"),
        (timedelta(minutes=61), "About an hour from now"),
        (timedelta(hours=47), "47 hours from now"),
        (timedelta(hours=48), "2 days from now"),
        (timedelta(days=15), "2 weeks from now"),
        (timedelta(days=61), "2 months from now"),
        (timedelta(days=800), "2 years from now"),
        (timedelta(days=292 * 365), "Forever"),
    ],
)
def test_how_long_a_model_stays(left: timedelta, words: str) -> None:
    """As Ollama's own table tells it."""
    assert until((NOW + left).isoformat(), NOW) == words


def test_a_moment_has_nanoseconds_and_a_zone() -> None:
    """As Go writes one; what is none is shown as it is."""
    assert until("2026-01-01T02:05:00.123456789+02:00", NOW) == "5 minutes from now"
    assert until("soon", NOW) == "soon"


@pytest.mark.parametrize(
    ("size_bytes", "gpu_bytes", "words"),
    [
        (10, 0, "100% CPU"),
        (10, 10, "100% GPU"),
        (10, 4, "60%/40% CPU/GPU"),
        (0, 4, "Unknown"),
    ],
)
def test_where_a_model_runs(size_bytes: int, gpu_bytes: int, words: str) -> None:
    """The shares of both add up."""
    assert processor(size_bytes, gpu_bytes) == words
