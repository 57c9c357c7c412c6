"""Tries the code with which Ollama reads the answers of some families, beside a Go TEMPLATE.

With a TEMPLATE alone Ollama finds calls whose arguments are one JSON text. Families that write
each argument by itself (``<parameter=city>``) have a PARSER of Ollama's, which may stand beside a
TEMPLATE: prompts stay those that were proven. One is taken where calls, thoughts and plain answers
that the chat template itself wrote were seen to come back from it.
"""

from __future__ import annotations

from collections.abc import Collection

from ollama_bridge.client import Client
from ollama_bridge.errors import RequestRejectedError, RunnerCrashedError
from ollama_bridge.template.authority import AnswerParser
from ollama_bridge.template.jinja import ChatTemplate, RefusedError
from ollama_bridge.verify.blank_gguf import Blank
from ollama_bridge.verify.readings import Reading, readings_of
from ollama_bridge.verify.renderers import PARSERS
from ollama_bridge.verify.trials import TRIAL, UNKNOWN, make, trials


def find_parser(
    client: Client, template: ChatTemplate, go: str, *, kept: Collection[str]
) -> AnswerParser | None:
    """The parser that reads the calls of a chat template; None: none of them.

    Args:
        client: Speaks to the daemon.
        template: The chat template.
        go: The Go template that renders its prompts.
        kept: Of tools and thinking, what the tag has by it: no more, and no less.

    Raises:
        DaemonError: the daemon could not answer.
    """
    try:
        readings = readings_of(template, tools=True, thinks="thinking" in kept)
    except RefusedError:
        return None
    if not all(reading.written for reading in readings):
        return None
    with trials(client):
        files = [(reading.blank(template, None), reading) for reading in readings]
        for parser in PARSERS:
            if all(_is_read(client, blank, one, go, parser, kept) for blank, one in files):
                return AnswerParser(parser)
    return None


def _is_read(
    client: Client, blank: Blank, reading: Reading, go: str, parser: str, kept: Collection[str]
) -> bool:
    try:
        make(client, blank, template=go, parser=parser)
        able = client.show(TRIAL).capabilities
    except UNKNOWN:
        raise
    except (RequestRejectedError, RunnerCrashedError):
        return False
    same = {name for name in ("tools", "thinking") if name in able} == set(kept)
    return same and reading.is_read(client)
