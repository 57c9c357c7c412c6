"""Tries a chat template in a process of its own, before it is rendered in ours.

A chat template is someone else's program. The sandbox keeps it from the system, but not from
computing for ever or from taking all memory, and neither can be stopped inside this process. So it
renders the probes once where the operating system limits both: with tools by every name that is
asked for, thinking and special tokens, and as many turns as are tried later, behind any of which
something may wait. A template that goes astray only on other texts than these is not found.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jinja2

from ollama_bridge.errors import ModelError
from ollama_bridge.template.environment import chat_environment

# Real templates take milliseconds, and a few times the length of what they are given.
_CPU_LIMIT_S = 5
_WALL_LIMIT_S = 120.0
_MEMORY_LIMIT_BYTES = 1 << 30
_TEXT_LIMIT = 1_000_000
_TOO_LONG, _TOO_BIG, _NOT_COMPILED = 3, 4, 5
_ON = "on a conversation of a few lines"
_HINT = (
    "replace the chat_template in tokenizer_config.json (or chat_template.jinja) with the one "
    "of the model that it was made from"
)
_SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def check_chat_template(template: str, *, where: str, hint: str = _HINT) -> None:
    """Check that a template can be compiled and ends, with a prompt of bearable size.

    What it raises itself is no matter here: that is how templates refuse a conversation.

    Raises:
        ModelError: it does not end, takes all memory, writes without end, or cannot be compiled.
    """
    problem = _try(template)
    if problem is not None:
        raise ModelError(f"{where}: the chat template {problem}", hint=hint)


@functools.lru_cache(maxsize=128)
def _try(template: str) -> str | None:
    task = {
        "template": template,
        "renderings": list(_renderings()),
        "cpu_limit_s": _CPU_LIMIT_S,
    }
    # Without the current folder on its path: only installed modules are run.
    command = [sys.executable, "-P", "-m", "ollama_bridge.models.template_trial"]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(task).encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_WALL_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"does not end within {_WALL_LIMIT_S:.0f} s {_ON}"
    if done.returncode == _TOO_LONG:
        return f"writes more than {_TEXT_LIMIT} characters {_ON}"
    if done.returncode == _TOO_BIG:
        return f"takes more than {_MEMORY_LIMIT_BYTES >> 30} GiB of memory {_ON}"
    if done.returncode == _NOT_COMPILED:
        return "is nested too deeply, or what Python cannot compile"
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"does not end within {_CPU_LIMIT_S} s of computing {_ON}"
    return None


def _renderings() -> Iterator[dict[str, Any]]:
    """What a template may be called with: by us, and by transformers in a training."""
    from ollama_bridge.models.probes import (  # the other process starts without
        CONVERSATIONS,
        THINKING_CONVERSATIONS,
        TOOL_CONVERSATIONS,
    )
    from ollama_bridge.template.jinja import (
        OTHER_NAMES_OF_TOOLS,
        in_parts,
        offering,
        with_written_arguments,
    )
    from ollama_bridge.template.marked_conversations import fill
    from ollama_bridge.template.probing import ALL_SHAPES

    said = [
        [{"role": role, "content": content} for role, content in turns]
        for turns in CONVERSATIONS.values()
    ]
    yield {"messages": said[0], "add_generation_prompt": True}
    yield {"messages": said[-1], "add_generation_prompt": False}
    for messages in said:
        yield {"messages": messages, "add_generation_prompt": True, **_SPECIAL}
    for conversation in (*TOOL_CONVERSATIONS.values(), *THINKING_CONVERSATIONS.values()):
        plain = [message.to_jinja() for message in conversation.messages]
        arguments = {
            "messages": plain,
            "tools": list(conversation.tools) or None,
            "documents": None,
            "add_generation_prompt": True,
            **_SPECIAL,
        }
        yield arguments
        yield from (arguments | {"enable_thinking": on, "thinking": on} for on in (True, False))
        for change in (in_parts, with_written_arguments):
            yield arguments | {"messages": [change(message) for message in plain]}
    for shape, system in itertools.product(ALL_SHAPES, (False, True)):
        tried = fill(shape, system=system, tools=2 if "t" in shape else 0, think=None)
        yield {
            "messages": [message.to_jinja() for message in tried.messages],
            "tools": list(tried.tools) or None,
            "add_generation_prompt": not tried.continued,
            **_SPECIAL,
        }
    for name in OTHER_NAMES_OF_TOOLS:
        yield offering(name) | _SPECIAL


def _main() -> int:
    task = json.loads(sys.stdin.buffer.read())
    for kind, limit in (
        (resource.RLIMIT_CPU, task["cpu_limit_s"]),
        (resource.RLIMIT_AS, _MEMORY_LIMIT_BYTES),
    ):
        with contextlib.suppress(ValueError, OSError):  # macOS has no limit of memory
            resource.setrlimit(kind, (limit, limit))
    try:
        compiled = chat_environment(lambda _: "26 Jul 2024").from_string(task["template"])
        for arguments in task["renderings"]:
            if _length(compiled, arguments) > _TEXT_LIMIT:
                return _TOO_LONG
    except MemoryError:
        return _TOO_BIG
    except jinja2.TemplateError:
        pass  # no Jinja at all: whoever renders it says so
    except (SyntaxError, ValueError, RecursionError):  # of Python's compiler
        return _NOT_COMPILED
    return 0


def _length(compiled: jinja2.Template, arguments: Mapping[str, Any]) -> int:
    length = 0
    try:
        for part in compiled.generate(arguments):
            length += len(part)
            if length > _TEXT_LIMIT:
                break
    except MemoryError:
        raise
    except Exception:
        pass  # a template may refuse a conversation by any error
    return length


if __name__ == "__main__":
    sys.exit(_main())
