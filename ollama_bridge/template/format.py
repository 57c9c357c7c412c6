"""How a chat template writes conversations, as a value that ``synthesis`` finds."""

from __future__ import annotations

from dataclasses import dataclass

from ollama_bridge.template.decisions import Tree
from ollama_bridge.template.notation import Notation
from ollama_bridge.template.observation import HoleKind

OF_LINES = " lines"
Trim = str  # "", "left", "right", "both"; with OF_LINES behind it: line ends alone


@dataclass(frozen=True)
class Fixed:
    """Holes of one thing in their order, and the texts between them."""

    kinds: tuple[HoleKind, ...]
    between: tuple[str, ...]


@dataclass(frozen=True)
class Calls:
    """How an assistant's calls are written.

    Attributes:
        space: Before them, where the message says something as well.
        head: Before the first.
        opening: Before each.
        parts: Name, arguments and id.
        closing: Behind each.
        separator: Between two.
        tail: Behind the last, the end of the message included.
        many: Whether a message may hold more than one.
    """

    space: str
    head: str
    opening: str
    parts: Fixed
    closing: str
    separator: str
    tail: str
    many: bool


@dataclass(frozen=True)
class Thinking:
    """How an assistant's thinking is written, and where.

    Attributes:
        opening: Its opening tag with the white space behind it.
        closing: Its closing tag with the white space around it.
        shown: Where it is written.
        by_field: Whether the chat template reads it from a field of its own; else it only cuts
            it out of what was said, and it is written where a message is continued.
        trim: White space that is cut off it.
    """

    opening: str
    closing: str
    shown: Tree[bool]
    by_field: bool = True
    trim: Trim = ""


@dataclass(frozen=True)
class Format:
    """How a chat template writes conversations.

    Attributes:
        head: Before the first message, where that is the same whatever it is.
        user: Before a user message.
        user_end: Behind it.
        opening: Before whatever an assistant's message holds.
        said: Behind that, before its content.
        shows_said: Where an assistant's content is written.
        end: Behind an assistant's message, unless it is to be continued.
        prompt: Behind the last message, for the assistant to go on.
        trims: White space that is cut off a message, by role.
        thinking: None: it is not written.
        tools: Whether tools are written.
        calls: None: they are not written.
        result: Before a tool's result.
        result_parts: Its content, and name and id if they are written.
        result_end: Behind it.
        notation: How tools and calls are written.
        tool_separator: Between two tools.
        limits: What of the chat template is not said here, in words.
    """

    head: Tree[str]
    user: Tree[str]
    user_end: str
    opening: Tree[str]
    said: Tree[str]
    shows_said: Tree[bool]
    end: str
    prompt: Tree[str]
    trims: dict[str, Tree[Trim]]
    thinking: Thinking | None
    tools: bool
    calls: Calls | None
    result: Tree[str]
    result_parts: Fixed
    result_end: str
    notation: Notation
    tool_separator: str
    limits: tuple[str, ...]
