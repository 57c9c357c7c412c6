"""Knows the forms in which lines have tools and calls inside of their texts, and reads them.

Texts of one chat template, or of the prompt of one data set, would teach a student what its own
template does not write: what can be read without a doubt becomes tools, calls and results.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from ollama_bridge.data.chats.glaive import read_glaive
from ollama_bridge.data.chats.hermes_tools import calls_without_tools, read_tags
from ollama_bridge.data.chats.toolace import read_toolace

_Read = Callable[..., Mapping[str, object] | None]
_FORMS: dict[str, _Read] = {
    "Glaive": read_glaive,
    "ToolACE": read_toolace,
    "Hermes": read_tags,
}
_TEXTS = "texts"  # not read, though it looks alike
_AS_TOOLS = "they are learnt as tools, in the form of the base's chat template"
_NOTES = {
    "Glaive": f"are one text of turns, with their calls (Glaive's form): {_AS_TOOLS}",
    "ToolACE": f"have calls in brackets (ToolACE's form): {_AS_TOOLS}; what their system turns say "
    "of the brackets is left out",
    "Hermes": f"have tools, calls and results in tags (Hermes's form): {_AS_TOOLS}; what their "
    "system turns say of the tags is left out",
}
_WARNING = (
    "have <tool_call> in an answer, but offer no tools: it is learnt as text (tools stand beside "
    "the messages, or inside of <tools> in the system turn)"
)
_OF_FILES = re.compile(
    rb"(?:<|\\u003[cC])(?:tools|tool_call|tool_response)(?:>|\\u003[eE])"
    rb"|\"chat\"\s*:\s*\"(?:\s|\\n)*USER:"
    rb"|\[func1\(params_name"
)


def has_written_tools(path: Path) -> bool:
    """Whether a file of conversations may have any of the forms, by its letters."""
    with path.open("rb") as stream:
        return any(_OF_FILES.search(line.replace(b"\0", b"")) for line in stream)


def with_tools_beside(
    record: Mapping[str, object], *, where: str
) -> tuple[Mapping[str, object], str]:
    """A line in the form that chat APIs use, and the form that it was in; itself, where in none.

    Raises:
        DataError: it is in one, but only half of it can be read.
    """
    for form, read in _FORMS.items():
        if (line := read(record, where=where)) is not None:
            return line, form
    return record, _TEXTS if calls_without_tools(record) else ""


def notes_on(forms: Mapping[str, int]) -> list[str]:
    """What was read so, for the user.

    Args:
        forms: How many of the lines that were kept were in which form.
    """
    return [
        f"{forms[form]} conversation(s) {said}" for form, said in _NOTES.items() if form in forms
    ]


def warnings_on(forms: Mapping[str, int]) -> list[str]:
    """What was not, though it looks alike."""
    return [f"{forms[_TEXTS]} conversation(s) {_WARNING}"] if _TEXTS in forms else []
