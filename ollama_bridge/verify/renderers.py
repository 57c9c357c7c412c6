"""Tries the code with which Ollama itself renders some families, on a chat template.

Ollama has a RENDERER for formats that its own Go templates cannot express. Few of them render what
the family's chat template does: tools come out as Go writes JSON (``<`` as an escape, the required
before the properties), and an answer that is to be continued is closed. So one is taken where it
was seen to be right, and not for its name, and where its parser was seen to give back calls and
thoughts that the chat template wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ollama_bridge.client import Client
from ollama_bridge.errors import (
    RenderingHiddenError,
    RequestRejectedError,
    RunnerCrashedError,
)
from ollama_bridge.template.authority import Renderer
from ollama_bridge.template.conversation import Conversation
from ollama_bridge.template.jinja import ChatTemplate, RefusedError
from ollama_bridge.template.probing import shows_thinking, takes_tools
from ollama_bridge.verify.blank_gguf import Blank
from ollama_bridge.verify.readings import Reading, readings_of
from ollama_bridge.verify.trials import UNKNOWN, conversations, is_rendered, make, trials

# RENDERER and PARSER of 0.34.4; a daemon without one of them says so.
_PARSERS: Mapping[str, str] = {
    **{
        name: name
        for name in (
            *("qwen3-coder", "qwen3-vl-instruct", "qwen3-vl-thinking", "qwen3.5", "ornith"),
            *("cogito", "olmo3", "olmo3-think", "nemotron-3-nano", "nemotron-3.5-nano"),
            *("functiongemma", "glm-4.7", "glm-ocr", "lfm2", "lfm2-thinking", "laguna"),
            *("poolside-v1", "cohere", "glimmer"),
        )
    },
    "qwen3.8": "qwen3.5",
    "deepseek3.1": "deepseek3",
    "olmo3.1": "olmo3",
    "olmo3-32b-think": "olmo3-think",
    "gemma4-small": "gemma4",
    "gemma4-large": "gemma4",
}
# The same, and one that has no renderer beside it.
PARSERS = tuple(dict.fromkeys([*_PARSERS.values(), "ministral"]))


def find_renderer(client: Client, template: ChatTemplate) -> Renderer | None:
    """The renderer that writes what a chat template does; None: none of them.

    Args:
        client: Speaks to the daemon.
        template: The chat template.

    Raises:
        DaemonError: the daemon could not answer.
    """
    wanted = list(_wanted(template))
    thinks, tools = shows_thinking(template), takes_tools(template)
    with trials(client):
        try:
            for name, parser in _PARSERS.items():
                try:
                    make(client, Blank(), renderer=name, parser=parser)
                except UNKNOWN:
                    raise
                except (RequestRejectedError, RunnerCrashedError):
                    continue  # a daemon that does not know it may say so here, or when it is asked
                if not all(is_rendered(client, *one) for one in wanted):
                    continue
                readings = readings_of(template, tools=tools, thinks=thinks)
                if all(_reads(client, template, one, name, parser) for one in readings):
                    return Renderer(name, parser, len(wanted))
        except RenderingHiddenError:
            return None  # an older daemon: nothing can be seen
    return None


def _reads(
    client: Client, template: ChatTemplate, reading: Reading, name: str, parser: str
) -> bool:
    """Whether the parser tells what the template wrote from the answer."""
    if not reading.written:
        return False
    make(client, reading.blank(template, None), renderer=name, parser=parser)
    return reading.is_read(client)


def _wanted(template: ChatTemplate) -> Iterator[tuple[Conversation, str]]:
    """What Ollama may be sent, but for answers to be continued, and the text of each."""
    thinks = (True, False) if shows_thinking(template) else (None,)
    for conversation in conversations(template, thinks=thinks):
        try:
            yield conversation, template.render(conversation)
        except RefusedError:
            continue
