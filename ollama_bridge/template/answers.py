"""What a daemon tells apart in an answer: thinking and tool calls, by tags out of the Go template.

Ollama (``thinking/template.go``, ``tools/template.go``) takes the texts around ``.Thinking`` and
the first one under ``if .ToolCalls`` for what a model writes. What it cannot find so stays in the
text of the answer, and is named here.
"""

from __future__ import annotations

from dataclasses import replace

from ollama_bridge.template.conversation import Conversation, Message
from ollama_bridge.template.decisions import leaves
from ollama_bridge.template.format import Format, Thinking
from ollama_bridge.template.jinja import ChatTemplate, RefusedError
from ollama_bridge.template.probing import find_dropped_tags

_QUESTION = Message("user", "Hi")
CALLS_STAY = (
    "a tool call stays in the text of an answer: Ollama finds calls whose arguments are JSON, "
    "which this chat template writes one by one (a PARSER may find them)"
)


def unseparated(template: ChatTemplate, format_: Format) -> list[str]:
    """What of an answer stays in its text although it is something else, in words."""
    found = []
    if format_.tools and format_.calls is None:
        found.append(
            "a tool call is recognised only where the answer begins with its JSON: the chat "
            "template does not say how a call is written"
        )
    if format_.calls is not None and format_.notation.arguments is not None:
        found.append(CALLS_STAY)
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


def written_answer(template: ChatTemplate, asked: Conversation, answer: Message) -> str:
    """What a model has to write behind a prompt to say an answer; nothing: it cannot be told.

    Args:
        template: The chat template.
        asked: What is answered.
        answer: With calls or a thought; that may be one which the template cuts out of answers.
    """
    plain = replace(answer, content="Xsaid0Z", thinking="", calls=())
    try:
        prompt = template.render(asked)
        whole, other = (
            template.render(replace(asked, messages=(*asked.messages, one)), prompt=False)
            for one in (answer, plain)
        )
    except RefusedError:
        return ""
    pairs = enumerate(zip(prompt, whole, strict=False))
    shared = next((i for i, (one, two) in pairs if one != two), min(len(prompt), len(whole)))
    front = prompt[:shared]
    if front != prompt:  # it opens a thought that is not there, or closes it: not in mid-tag
        opened = front.rfind("<")
        front = front if opened < 0 or ">" in front[opened:] else front[:opened]
    written = whole[len(front) :]
    end = other.partition(plain.content)[2]
    written = written.removesuffix(end if written.endswith(end) else end.rstrip())
    tags = find_dropped_tags(template)
    if tags is None or answer.thinking in written:
        return written
    opening = "" if prompt.rstrip().endswith(tags[0].strip()) else tags[0]
    return f"{opening}{answer.thinking}{tags[1]}{written}"


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
