"""A chat in this process, as a person types it."""

from __future__ import annotations

import io

from fakes.daemon import FakeDaemon
from rich.console import Console

from ollama_bridge.cli.answers import AnswerView
from ollama_bridge.cli.chat.repl import Repl
from ollama_bridge.client import Client, Conversation


class Chat:
    """A chat whose answers are collected."""

    def __init__(self, daemon: FakeDaemon, *, terminal: bool = False) -> None:
        self.daemon = daemon
        self.screen = io.StringIO()
        console = Console(file=self.screen, force_terminal=terminal, width=60, color_system=None)
        self.client = Client(daemon.host)
        self.repl = Repl(self.client, Conversation("m"), AnswerView(console))

    def __call__(self, *lines: str) -> str:
        """Type lines; returns what is new on the screen."""
        before = len(self.screen.getvalue())
        for line in lines:
            self.repl.take(line)
        return self.screen.getvalue()[before:]

    @property
    def last(self) -> dict[str, object]:
        question: dict[str, object] = self.daemon.questions[-1]
        return question
