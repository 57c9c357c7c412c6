"""Tries the daemon's own Jinja on a chat template whose tools or thinking Go cannot express.

Ollama renders the Jinja of a GGUF by llama.cpp, of whose Jinja not all is Python's, and passes it
less than was sent: no earlier thinking, and tools with the keys in an order of its own. What an
answer means is found by llama.cpp too, which reads off the template how calls and thoughts are
written. So both are looked at: prompts, and what comes of an answer that the template itself wrote.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ollama_bridge.client import Client
from ollama_bridge.daemon.era import NO_JINJA, has_limit
from ollama_bridge.errors import (
    RenderingHiddenError,
    RequestRejectedError,
    RunnerCrashedError,
)
from ollama_bridge.template.authority import NativeJinja
from ollama_bridge.template.comment import with_comment
from ollama_bridge.template.conversation import Conversation
from ollama_bridge.template.jinja import ChatTemplate, RefusedError
from ollama_bridge.template.probing import shows_thinking
from ollama_bridge.template.words import names_thinking
from ollama_bridge.verify.readings import Reading, blank_of, readings_of
from ollama_bridge.verify.trials import (
    TRIAL,
    UNKNOWN,
    conversations,
    is_rendered,
    make,
    trials,
)


def find_native_jinja(
    client: Client, template: ChatTemplate, *, lost: Collection[str], kept: Collection[str]
) -> NativeJinja | None:
    """Whether the daemon's own Jinja renders what a chat template does, and reads its answers.

    Args:
        client: Speaks to the daemon.
        template: The chat template.
        lost: Of tools and thinking, what is looked for: one of them is enough. Nothing: calls of
            which Go alone makes nothing.
        kept: Of tools and thinking, what must be there as well.

    Returns:
        None: it does not, or nothing can be seen.

    Raises:
        DaemonError: the daemon could not answer.
    """
    if has_limit(client.version(), NO_JINJA):
        return None
    wanted = list(_wanted(template, keeps_thoughts="thinking" in kept))
    jinja = with_comment(template.source)
    try:
        with trials(client):
            make(client, blank_of(template, jinja))
            able = client.show(TRIAL).capabilities
            gained = not lost or any(name in able for name in lost)
            if not gained or not set(kept) <= set(able):
                return None
            if not all(is_rendered(client, asked, text) for asked, text in wanted):
                return None
            thinks = "thinking" in able and shows_thinking(template)
            readings = readings_of(template, tools="tools" in able, thinks=thinks)
            if not all(_reads(client, template, one, jinja) for one in readings):
                return None
    except UNKNOWN:
        raise
    except (RenderingHiddenError, RequestRejectedError, RunnerCrashedError):
        return None  # nothing can be seen, or llama.cpp makes nothing of the template
    return NativeJinja(len(wanted))


def _wanted(template: ChatTemplate, *, keeps_thoughts: bool) -> Iterator[tuple[Conversation, str]]:
    """What is asked, and the text of each.

    Earlier thinking, which Ollama leaves out, only where it must stay right: not beside calls.
    """
    thinks = (True, False) if names_thinking(template.source) else (None,)
    for conversation in conversations(template, thinks=thinks):
        thought = any(message.thinking for message in conversation.messages)
        if thought and (not keeps_thoughts or any(one.calls for one in conversation.messages)):
            continue
        try:
            yield conversation, template.render(conversation.handed_on)
        except RefusedError:
            continue


def _reads(client: Client, template: ChatTemplate, reading: Reading, jinja: str) -> bool:
    """Whether what the template wrote is told from the answer."""
    if not reading.written:
        return False
    make(client, reading.blank(template, jinja))
    return reading.is_read(client)
