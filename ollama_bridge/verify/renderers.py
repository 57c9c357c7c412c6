"""Tries the code with which Ollama itself renders some families, on a chat template.

Ollama has a RENDERER for formats that its own Go templates cannot express. Few of them render what
the family's chat template does: tools come out as Go writes JSON (``<`` as an escape, the required
before the properties), and an answer that is to be continued is closed. So one is taken where it
was seen to be right, and not for its name. A renderer reads no weights: it is tried with a file
that has none worth the name.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from ollama_bridge.client import Client
from ollama_bridge.daemon.tags import TRIALS
from ollama_bridge.digests import digest_file
from ollama_bridge.errors import (
    ModelNotFoundError,
    OllamaBridgeError,
    RenderingHiddenError,
    RequestRejectedError,
    RunnerCrashedError,
)
from ollama_bridge.template.authority import Renderer
from ollama_bridge.template.conversation import Conversation
from ollama_bridge.template.generation import Domain, fixed, random_ones
from ollama_bridge.template.jinja import ChatTemplate, RefusedError
from ollama_bridge.template.observation import takes_system
from ollama_bridge.template.probing import shows_thinking, takes_tools
from ollama_bridge.verify.blank_gguf import write_blank_gguf

_TAG = f"{TRIALS}trial"
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
_RANDOM_CONVERSATIONS = 40
_NUM_CTX = 16384  # of bytes; nothing is cut off a prompt


def find_renderer(client: Client, template: ChatTemplate) -> Renderer | None:
    """The renderer that writes what a chat template does; None: none of them.

    Args:
        client: Speaks to the daemon.
        template: The chat template.

    Raises:
        DaemonError: the daemon could not answer.
    """
    wanted = list(_wanted(template))
    digest = _send_blank(client)
    request = {
        "model": _TAG,
        "files": {"model.gguf": digest},
        "parameters": {"num_ctx": _NUM_CTX},
    }
    try:
        for name, parser in _PARSERS.items():
            try:
                client.create({**request, "renderer": name, "parser": parser})
            except (RequestRejectedError, RunnerCrashedError):
                continue  # a daemon that does not know it may say so here, or when it is asked
            if all(_is_rendered(client, conversation, text) for conversation, text in wanted):
                return Renderer(name, parser, len(wanted))
    except RenderingHiddenError:
        return None  # an older daemon: nothing can be seen
    finally:
        with contextlib.suppress(OllamaBridgeError):
            _remove(client)
    return None


def _send_blank(client: Client) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "blank.gguf"
        write_blank_gguf(path)
        digest = f"sha256:{digest_file(path)}"
        client.upload_blob(path, digest)
    return digest


def _is_rendered(client: Client, conversation: Conversation, wanted: str) -> bool:
    messages = [message.to_ollama() for message in conversation.messages]
    try:
        served = client.render(_TAG, messages, think=conversation.think, tools=conversation.tools)
    except RequestRejectedError:  # it has no tools, no thinking, or the daemon does not know it
        return False
    return served == wanted


def _wanted(template: ChatTemplate) -> Iterator[tuple[Conversation, str]]:
    """What Ollama may be sent, but for answers to be continued, and the text of each."""
    thinking = shows_thinking(template)
    domain = Domain(
        system=takes_system(template),
        tools=takes_tools(template),
        many_calls=True,
        thinking=thinking,
        continued_thinking=False,
        thinks=(True, False) if thinking else (None,),
    )
    several = [*list(fixed(domain))[::3], *random_ones(domain, _RANDOM_CONVERSATIONS, seed=0)]
    for conversation in several:
        if conversation.continued:
            continue
        try:
            yield conversation, template.render(conversation)
        except RefusedError:
            continue


def _remove(client: Client) -> None:
    with contextlib.suppress(ModelNotFoundError):
        client.unload(_TAG)
        client.delete(_TAG)
