"""A reporter that keeps what it hears."""

from __future__ import annotations

from dataclasses import dataclass, field

from ollama_bridge.reporting import Event, Note


@dataclass
class Listener:
    """Keeps events."""

    events: list[Event] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        """Keep it."""
        self.events.append(event)

    @property
    def notes(self) -> list[str]:
        """What notes said, in order."""
        return [event.message for event in self.events if isinstance(event, Note)]
