"""A tag that is made to see what a daemon does with a chat template, and taken away again."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ollama_bridge.client import Client
from ollama_bridge.daemon.tags import TRIALS
from ollama_bridge.digests import digest_file
from ollama_bridge.errors import (
    DaemonBusyError,
    DaemonTimeoutError,
    DaemonUnreachableError,
    ModelNotFoundError,
    OllamaBridgeError,
    RequestRejectedError,
    StreamBrokenError,
)
from ollama_bridge.template.conversation import Conversation
from ollama_bridge.template.generation import Domain, fixed, random_ones
from ollama_bridge.template.jinja import ChatTemplate
from ollama_bridge.template.marked_conversations import takes_system
from ollama_bridge.template.probing import shows_thinking, takes_tools
from ollama_bridge.verify.blank_gguf import Blank

# Two processes may try at a time: neither looks at the other's tag, or takes its file away.
TRIAL = f"{TRIALS}trial-{secrets.token_hex(8)}"
# After these nothing is known of what was tried.
UNKNOWN = (DaemonBusyError, DaemonTimeoutError, DaemonUnreachableError, StreamBrokenError)
_RANDOM_CONVERSATIONS = 40
_NUM_CTX = 16384  # of bytes; nothing is cut off a prompt


@contextlib.contextmanager
def trials(client: Client) -> Iterator[None]:
    """Takes the tag away at the end, if one was made."""
    try:
        yield
    finally:
        with contextlib.suppress(OllamaBridgeError):
            _remove(client)


def send(client: Client, blank: Blank) -> str:
    """Upload a file of no weights; gives its digest."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "blank.gguf"
        replace(blank, name=TRIAL).write(path)
        digest = f"sha256:{digest_file(path)}"
        client.upload_blob(path, digest)
    return digest


def make(
    client: Client,
    blank: Blank,
    *,
    template: str | None = None,
    renderer: str | None = None,
    parser: str | None = None,
) -> None:
    """Make the tag of a file, which is sent each time: a daemon drops what a tag no longer has.

    Args:
        client: Speaks to the daemon.
        blank: The file.
        template: TEMPLATE of the tag; None: none, as of the others.
        renderer: RENDERER.
        parser: PARSER.

    Raises:
        RequestRejectedError: the daemon does not know one of the parts.
    """
    parameters: Mapping[str, Any] = {"num_ctx": _NUM_CTX, "temperature": 0}
    files = {"model.gguf": send(client, blank)}
    parts = {"template": template, "renderer": renderer, "parser": parser}
    given = {name: value for name, value in parts.items() if value is not None}
    client.create({"model": TRIAL, "files": files, "parameters": parameters, **given})


def is_rendered(client: Client, conversation: Conversation, wanted: str) -> bool:
    """Whether the daemon makes this prompt of it."""
    messages = [message.to_ollama() for message in conversation.messages]
    try:
        served = client.render(TRIAL, messages, think=conversation.think, tools=conversation.tools)
    except UNKNOWN:
        raise
    except RequestRejectedError:  # it has no tools, no thinking, or the daemon does not know it
        return False
    return served == wanted


def conversations(
    template: ChatTemplate, *, thinks: tuple[bool | None, ...]
) -> Iterator[Conversation]:
    """What Ollama may be sent, but for answers that are to be continued.

    Args:
        template: Says what its conversations may hold.
        thinks: What the requests say of thinking.
    """
    domain = Domain(
        system=takes_system(template),
        tools=takes_tools(template),
        many_calls=True,
        thinking=shows_thinking(template),
        continued_thinking=False,
        thinks=thinks,
    )
    several = [*list(fixed(domain))[::3], *random_ones(domain, _RANDOM_CONVERSATIONS, seed=0)]
    return (conversation for conversation in several if not conversation.continued)


def _remove(client: Client) -> None:
    with contextlib.suppress(ModelNotFoundError):
        client.unload(TRIAL)
        client.delete(TRIAL)
