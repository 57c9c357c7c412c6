"""Makes a conversation that two templates render differently as small as it can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from ollama_bridge.template.conversation import Conversation, Message


def shrink(conversation: Conversation, differs: Callable[[Conversation], bool]) -> Conversation:
    """The smallest conversation found, by leaving out and shortening, that still differs."""
    while True:
        fitting = (found for found in _smaller(conversation) if is_request(found))
        smaller = next((found for found in fitting if differs(found)), None)
        if smaller is None:
            return conversation
        conversation = smaller


def is_request(conversation: Conversation) -> bool:
    """Whether clients of Ollama send such conversations: turns follow each other as they should."""
    before, called = "", False
    for number, message in enumerate(conversation.messages):
        allowed = {
            "system": number == 0,
            "user": before in ("", "assistant", "tool"),
            "assistant": before in ("user", "tool"),
            "tool": before == "tool" or called,
        }
        if not allowed[message.role] or (called and message.role != "tool"):
            return False
        if message.role != "system":
            before, called = message.role, bool(message.calls)
    return bool(before) and not called


def _smaller(conversation: Conversation) -> Iterator[Conversation]:
    messages = conversation.messages
    for size in (2, 1):
        for start in range(len(messages) - size + 1):
            rest = messages[:start] + messages[start + size :]
            if rest:
                yield replace(conversation, messages=rest)
    for count in range(len(conversation.tools)):
        yield replace(conversation, tools=conversation.tools[:count])
    for number, message in enumerate(messages):
        for less in _less(message):
            changed = (*messages[:number], less, *messages[number + 1 :])
            yield replace(conversation, messages=changed)


def _less(message: Message) -> Iterator[Message]:
    if message.thinking:
        yield replace(message, thinking="")
        if len(message.thinking) > 1:
            yield replace(message, thinking="t")
    if message.calls:
        yield replace(message, calls=message.calls[:-1])
        if any(call.arguments for call in message.calls):
            yield replace(
                message, calls=tuple(replace(call, arguments={}) for call in message.calls)
            )
    text = message.content
    if len(text) > 1:
        yield replace(message, content="a")
        half = len(text) // 2
        for part in (text[:half], text[half:], text[1:], text[:-1]):
            yield replace(message, content=part)
