"""What a run tells: typed events, and the reporters that read them.

Stages emit events and know nothing of terminals. A run's ``events.jsonl`` is the record that
progress bars, reports and any later view are readers of. Prompts, answers and secrets never
appear in an event.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

from ollama_bridge.closing import Closing

EVENTS_VERSION = 1
_PROGRESS_INTERVAL_S = 5.0
_TOLD_LAST_BYTES = 1 << 16


@dataclass(frozen=True)
class StageStarted:
    """A stage begins. ``resumed_from`` is how much of it an earlier run had done."""

    stage: str
    resumed_from: int = 0


@dataclass(frozen=True)
class StageReused:
    """A stage was found done: same stage version, inputs and settings."""

    stage: str
    path: str


@dataclass(frozen=True)
class StageFinished:
    """A stage ended well."""

    stage: str
    path: str
    elapsed_s: float
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class StageFailed:
    """A stage ended with an error."""

    stage: str
    error: str


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` units of a stage's work. ``fields`` are for the eye (loss, tok/s)."""

    stage: str
    done: int
    total: int
    unit: str
    fields: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Metric:
    """Numbers worth keeping: loss parts at a step, scores of an evaluation."""

    stage: str
    step: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Note:
    """A sentence for the user."""

    stage: str
    level: Literal["info", "warning"]
    message: str


Event = StageStarted | StageReused | StageFinished | StageFailed | Progress | Metric | Note


class Reporter(Protocol):
    """Receives events. Must not raise because of an event."""

    def emit(self, event: Event) -> None:
        """Take one event."""


class NullReporter:
    """Says nothing."""

    def emit(self, event: Event) -> None:
        """Drop the event."""


def tell_bytes(reporter: Reporter, stage: str) -> Callable[[int, int], None]:
    """What a client calls with the bytes that are done, and all of them."""
    return lambda done, total: reporter.emit(Progress(stage, done, total, "bytes"))


class JSONLReporter(Closing):
    """Appends every event but mere progress to ``events.jsonl``, a line each.

    Progress is written at most once in five seconds a stage, so that a later view can draw it
    without the file growing with every step. What cannot be written is left out, and half a line
    that a full disk left of an earlier run's is cut off.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut_off_torn_line(path)
        self._stream = path.open("a", encoding="utf-8", errors="replace")
        self._last_progress_s: dict[str, float] = {}

    def emit(self, event: Event) -> None:
        """Write one event."""
        now_s = time.time()
        if isinstance(event, Progress) and event.done < event.total:
            if now_s - self._last_progress_s.get(event.stage, 0.0) < _PROGRESS_INTERVAL_S:
                return
            self._last_progress_s[event.stage] = now_s
        record = {
            "v": EVENTS_VERSION,
            "time": round(now_s, 3),
            "pid": os.getpid(),
            "event": type(event).__name__,
            **asdict(event),
        }
        with contextlib.suppress(OSError):  # a full disk: the work itself says so, or goes on
            self._stream.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):
            self._stream.close()


def _cut_off_torn_line(path: Path) -> None:
    """Half a line is none, and the next one would be its end."""
    content = path.read_bytes() if path.is_file() else b""
    if content and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


def last_told(path: Path) -> str | None:
    """What the last events of ``events.jsonl`` tell: the stage and how much of it is done.

    None: none that can be read; they may be those of another version.
    """
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - _TOLD_LAST_BYTES))
            lines = stream.read().splitlines()
    except OSError:
        return None
    stage: str | None = None
    for line in reversed(lines):
        with contextlib.suppress(ValueError, KeyError, TypeError):  # half a line
            event = json.loads(line)
            stage = stage or event["stage"]
            if event["stage"] != stage:
                continue
            match event["event"]:
                case Progress.__name__:
                    return f"{stage} {event['done']}/{event['total']} {event['unit']}"
                case StageFinished.__name__ | StageReused.__name__:
                    return f"{stage} done"
                case StageStarted.__name__:
                    return stage
    return stage


class TeeReporter:
    """Hands every event to several reporters."""

    def __init__(self, *reporters: Reporter) -> None:
        self._reporters = reporters

    def emit(self, event: Event) -> None:
        """Hand the event on."""
        for reporter in self._reporters:
            reporter.emit(event)


class Once:
    """Hands every event on, but notes that another stage has told before in the same words."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._told: dict[str, str] = {}

    def emit(self, event: Event) -> None:
        """Hand the event on."""
        if isinstance(event, Note):
            by = self._told.setdefault(event.message, event.stage)
            if by != event.stage:
                return
        self._reporter.emit(event)


class Timed:
    """Emits :class:`StageStarted` at entry and :class:`StageFailed` when an error leaves.

    The stage calls :meth:`finish` (or :meth:`reuse`) itself, for only it knows its facts.
    """

    def __init__(self, reporter: Reporter, stage: str) -> None:
        self._reporter = reporter
        self._stage = stage
        self._start_s = time.monotonic()

    def __enter__(self) -> Self:
        """Begin the stage."""
        self._reporter.emit(StageStarted(self._stage))
        return self

    def finish(self, path: Path, facts: Mapping[str, object] | None = None) -> None:
        """The stage's artefact is committed."""
        elapsed_s = time.monotonic() - self._start_s
        self._reporter.emit(StageFinished(self._stage, str(path), elapsed_s, facts or {}))

    def reuse(self, path: Path) -> None:
        """The stage's artefact was already there."""
        self._reporter.emit(StageReused(self._stage, str(path)))

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Report an error that leaves the stage."""
        if exc is not None:
            self._reporter.emit(StageFailed(self._stage, type(exc).__name__))
