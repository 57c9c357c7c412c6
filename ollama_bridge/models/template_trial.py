"""Tries a chat template in a process of its own, before it is rendered in ours.

A chat template is someone else's program. The sandbox keeps it from the system, but not from
computing for ever or from taking all memory, and neither can be stopped inside this process. So it
renders the probes once where the operating system limits both. A template that goes astray only on
other texts than these is not found.
"""

from __future__ import annotations

import contextlib
import functools
import json
import resource
import signal
import subprocess
import sys

import jinja2

from ollama_bridge.errors import ModelError
from ollama_bridge.template.environment import chat_environment

# Real templates take milliseconds, and a few times the length of what they are given.
_CPU_LIMIT_S = 5
_WALL_LIMIT_S = 120.0
_MEMORY_LIMIT_BYTES = 1 << 30
_TEXT_LIMIT = 1_000_000
_TOO_LONG, _TOO_BIG = 3, 4


def check_chat_template(template: str, *, where: str) -> None:
    """Check that a template ends, with a prompt of bearable size.

    What it raises itself is no matter here: that is how templates refuse a conversation.

    Args:
        template: The Jinja.
        where: It comes from, for messages.

    Raises:
        ModelError: it does not end, takes all memory, or writes without end.
    """
    problem = _try(template)
    if problem is not None:
        raise ModelError(
            f"{where}: the chat template {problem} on a conversation of a few lines",
            hint="replace the chat_template in tokenizer_config.json (or chat_template.jinja) by "
            "the one of the model that it was made of",
        )


@functools.lru_cache(maxsize=16)
def _try(template: str) -> str | None:
    from ollama_bridge.models.probes import CONVERSATIONS  # the other process starts without

    conversations = [
        [{"role": role, "content": content} for role, content in turns]
        for turns in CONVERSATIONS.values()
    ]
    task = {"template": template, "conversations": conversations, "cpu_limit_s": _CPU_LIMIT_S}
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
        return f"does not end within {_WALL_LIMIT_S:.0f} s"
    if done.returncode == _TOO_LONG:
        return f"writes more than {_TEXT_LIMIT} characters"
    if done.returncode == _TOO_BIG:
        return f"takes more than {_MEMORY_LIMIT_BYTES >> 30} GiB of memory"
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"does not end within {_CPU_LIMIT_S} s of computing"
    return None


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
        for messages in task["conversations"]:
            if _length(compiled, messages) > _TEXT_LIMIT:
                return _TOO_LONG
    except MemoryError:
        return _TOO_BIG
    except (jinja2.TemplateError, RecursionError):
        pass  # no Jinja at all: whoever renders it says so
    return 0


def _length(compiled: jinja2.Template, messages: list[dict[str, str]]) -> int:
    length = 0
    try:
        for part in compiled.generate(messages=messages, add_generation_prompt=True):
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
