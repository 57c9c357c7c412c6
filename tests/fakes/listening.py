"""A reporter that keeps what it hears."""

from __future__ import annotations

from dataclasses import dataclass, field

from ollama_bridge.reporting import Event, Note, Progress, StageStarted


class KilledError(Exception):
    """Stands for a kill between two steps."""


@dataclass
class Listener:
    """Keeps events.

    Attributes:
        events: In order.
        kill_at: The step of a training that it raises at, if any.
    """

    events: list[Event] = field(default_factory=list)
    kill_at: int | None = None

    def emit(self, event: Event) -> None:
        """Keep it."""
        self.events.append(event)
        if isinstance(event, Progress) and event.unit == "steps" and event.done == self.kill_at:
            raise KilledError

    @property
    def notes(self) -> list[str]:
        """What notes said, in order."""
        return [event.message for event in self.events if isinstance(event, Note)]

    @property
    def warnings(self) -> list[str]:
        """What warnings said, in order."""
        notes = [event for event in self.events if isinstance(event, Note)]
        return [note.message for note in notes if note.level == "warning"]

    @property
    def resumed_from(self) -> list[int]:
        """How much each stage had done when it began."""
        return [event.resumed_from for event in self.events if isinstance(event, StageStarted)]
