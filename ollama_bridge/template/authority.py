"""Decides who renders a tag's prompts: a Go template of ours, or the daemon's own Jinja.

One authority a tag. With a TEMPLATE and a Jinja template in the GGUF, Ollama follows one of them
by rules of its own, so only the one that is decided on is given to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ollama_bridge.errors import TemplateError
from ollama_bridge.template.conversation import Conversation, Message
from ollama_bridge.template.format import Format
from ollama_bridge.template.jinja import ChatTemplate, RefusedError
from ollama_bridge.template.proof import Proof, prove
from ollama_bridge.template.synthesis import synthesise
from ollama_bridge.template.writer import write

Authority = Literal["template", "jinja"]


@dataclass(frozen=True)
class Served:
    """How a tag has to render, and what is known of it.

    Attributes:
        authority: template: a Go template; jinja: the chat template, in the daemon.
        go: The Go template; None: jinja.
        reason: Why, in one sentence.
        tools: Whether requests may offer tools.
        thinking: Whether an answer's thinking is told from the answer.
        conversations: How many were compared.
        differences: What renders differently, in words.
    """

    authority: Authority
    go: str | None
    reason: str
    tools: bool
    thinking: bool
    conversations: int
    differences: tuple[str, ...]


def decide(template: ChatTemplate) -> Served:
    """Who renders, for a chat template.

    Raises:
        TemplateError: it fails on a single user message, does not end, or writes without end.
    """
    try:
        template.render(Conversation((Message("user", "Hi"),)))
    except RefusedError as exc:
        raise TemplateError(
            f"the chat template fails on a single user message: {exc}",
            hint="fix chat_template.jinja in the checkpoint",
        ) from exc
    proven: list[tuple[str, Proof]] = []

    def accept(format_: Format) -> None:
        source = write(format_)
        proven.append((source, prove(template, source, format_)))

    try:
        found = synthesise(template, accept)
    except TemplateError as exc:
        if not exc.is_inexpressible:
            raise
        return Served(
            "jinja",
            None,
            f"the daemon renders the chat template itself, which takes Ollama 0.30 or later: "
            f"{exc.message}",
            tools="tools" in template.source or "tool_call" in template.source,
            thinking="<think>" in template.source and "</think>" in template.source,
            conversations=0,
            differences=(
                "the daemon leaves out an assistant's earlier thinking",
                "the daemon closes thinking before it continues an assistant's message",
            ),
        )
    ((source, proof),) = proven
    return Served(
        "template",
        source,
        f"a Go template renders as the chat template does in {proof.conversations} conversations",
        tools=found.tools,
        thinking=found.thinking is not None,
        conversations=proof.conversations,
        differences=(
            *found.limits,
            *(("the chat template takes texts as lists of parts",) if template.takes_parts else ()),
            *proof.differences,
        ),
    )
