"""What a daemon tells apart in an answer: thinking and tool calls, by tags out of the Go template.

Ollama (``thinking/template.go``, ``tools/template.go``) takes the texts around ``.Thinking`` and
the first one under ``if .ToolCalls`` for what a model writes. What it cannot find so stays in the
text of the answer, and is named here.
"""

from __future__ import annotations

from ollama_bridge.template.conversation import Conversation, Message
from ollama_bridge.template.decisions import leaves
from ollama_bridge.template.format import Format, Thinking
from ollama_bridge.template.jinja import ChatTemplate, RefusedError

_QUESTION = Message("user", "Hi")


def unseparated(template: ChatTemplate, format_: Format) -> list[str]:
    """What of an answer stays in its text although it is something else, in words."""
    found = []
    if format_.tools and format_.calls is None:
        found.append(
            "a tool call is recognised only where the answer begins with its JSON: the chat "
            "template does not say how a call is written"
        )
    if format_.calls is not None and format_.notation.arguments is not None:
        found.append(
            "a tool call stays in the text of an answer: Ollama finds calls whose arguments are "
            "JSON, which this chat template writes one by one (a PARSER may find them)"
        )
    thinking = format_.thinking
    if thinking is not None:
        asked = template.render(Conversation((_QUESTION,), think=True))
        if _unthinking(template) in (asked, None):
            found.append(
                "a request not to think: the chat template cannot pass it on, and if the model "
                "thinks anyway, its thoughts are part of the answer"
            )
        if not splits_thinking(template, thinking):
            tag = thinking.opening.strip()
            found.append(
                f"thinking stays in the text of an answer: Ollama looks for {tag!r} in front of "
                "it, which no answer begins with"
            )
    return found


def splits_thinking(template: ChatTemplate, thinking: Thinking) -> bool:
    """Whether an answer begins with the opening tag, or the prompt has it already.

    Args:
        template: The chat template.
        thinking: How it writes thoughts.
    """
    tag = thinking.opening.strip()
    asked = template.render(Conversation((_QUESTION,), think=True))
    opened = not thinking.by_field or asked.rstrip().endswith(tag)
    return opened or _begins_with(template, asked, tag)


def given(format_: Format, text: str) -> str:
    """The part of a text of the assistant's that every prompt already ends with.

    Args:
        format_: How conversations are written.
        text: What an answer is written with, from its start.
    """
    prompts = list(leaves(format_.prompt))
    ends = (text[:length] for length in range(len(text), 0, -1))
    found = next((end for end in ends if all(prompt.endswith(end) for prompt in prompts)), "")
    return found if found.strip() else ""


def _unthinking(template: ChatTemplate) -> str | None:
    """The prompt of a request not to think; None: the chat template refuses it."""
    try:
        return template.render(Conversation((_QUESTION,), think=False))
    except RefusedError:
        return None


def _begins_with(template: ChatTemplate, asked: str, tag: str) -> bool:
    """Whether an answer that thinks goes on behind the prompt with the tag."""
    answer = Message("assistant", "Yes.", thinking="Well.")
    try:
        whole = template.render(Conversation((_QUESTION, answer), think=True), prompt=False)
    except RefusedError:
        return False
    return whole.startswith(asked) and whole[len(asked) :].lstrip().startswith(tag)
