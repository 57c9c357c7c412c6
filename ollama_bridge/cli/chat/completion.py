"""What Tab offers in a chat: its commands, and what they are about."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prompt_toolkit.completion import CompleteEvent, Completion, NestedCompleter, WordCompleter
from prompt_toolkit.document import Document

from ollama_bridge.cli.question_options import LEVELS
from ollama_bridge.option_kinds import OPTION_KINDS

_PLAIN = (
    *("system", "timing", "load", "save", "export", "retry", "undo", "compare", "list", "clear"),
    *("help", "bye"),
)
_SHOWN = ("info", "license", "modelfile", "parameters", "system", "template")
_SET = (
    *("system", "think", "nothink", "noformat", "budget", "verbose", "quiet"),
    *("history", "nohistory"),
)


class CommandCompleter(NestedCompleter):
    """Words by blanks: for a word of prompt_toolkit's own the slash before a command is none."""

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        """What the word before the cursor may become."""
        if " " in document.text_before_cursor.lstrip():
            return super().get_completions(document, complete_event)
        return WordCompleter([*self.options], WORD=True).get_completions(document, complete_event)


def completer() -> NestedCompleter:
    """Of every command."""
    commands: dict[str, Any] = dict.fromkeys(f"/{name}" for name in _PLAIN)
    settings: dict[str, Any] = dict.fromkeys(_SET)
    settings |= {"parameter": dict.fromkeys(OPTION_KINDS), "format": {"json": None}}
    levels = dict.fromkeys(("on", "off", *LEVELS))
    return CommandCompleter.from_nested_dict(
        commands | {"/set": settings, "/show": dict.fromkeys(_SHOWN), "/think": levels}
    )
