"""A loaded model in the words of ``ollama ps`` (v0.34.4: ``cmd/cmd.go``, ``format/time.go``)."""

from __future__ import annotations

from datetime import datetime, timedelta

_FOREVER = timedelta(days=21 * 365)


def processor(size_bytes: int, gpu_bytes: int) -> str:
    """Where it runs: ``100% GPU``, ``100% CPU``, or the shares of both."""
    if gpu_bytes == 0:
        return "100% CPU"
    if gpu_bytes == size_bytes:
        return "100% GPU"
    if gpu_bytes > size_bytes:
        return "Unknown"
    percent = round(100 * (size_bytes - gpu_bytes) / size_bytes)
    return f"{percent}%/{100 - percent}% CPU/GPU"


def until(moment: str, now: datetime) -> str:
    """How long it stays, of a moment in RFC 3339: ``4 minutes from now``."""
    try:
        left = datetime.fromisoformat(moment) - now
    except (ValueError, TypeError):
        return moment
    if left < timedelta(0):
        return "Stopping..."
    return "Forever" if left >= _FOREVER else f"{_duration(left.total_seconds())} from now"


def _duration(time_s: float) -> str:
    if time_s < 1:
        return "Less than a second"
    if time_s < 60:
        return f"{int(time_s)} second{'s' if time_s >= 2 else ''}"
    if time_s < 3600:
        return f"{int(time_s // 60)} minutes" if time_s >= 120 else "About a minute"
    hours = round(time_s / 3600)
    if hours == 1:
        return "About an hour"
    for limit_days, unit, unit_hours in (
        (2, "hours", 1),
        (14, "days", 24),
        (60, "weeks", 168),
        (730, "months", 720),
    ):
        if hours < 24 * limit_days:
            return f"{hours // unit_hours} {unit}"
    return f"{hours // (24 * 365)} years"
