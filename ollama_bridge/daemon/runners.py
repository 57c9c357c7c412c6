"""Ollama's runners among the processes of this machine, and those that nobody asks any more."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

import psutil

_RUNNERS = ("llama-server", "ollama_llama_server")
_DAEMONS = ("ollama", "ollama.exe")
# Where Ollama's own is; who built llama.cpp himself, for Ollama's files, has another of that name.
_OWN = re.compile(r"/(lib/ollama|Ollama\.app)/")
BLOB = re.compile(r"sha256[-:]([0-9a-f]{64})")


def runners() -> Iterator[psutil.Process]:
    """Processes that are named and called as Ollama's runners are."""
    for process in psutil.process_iter(["name"]):
        with contextlib.suppress(psutil.Error):
            if _is_runner(process):
                yield process


def left_runners() -> list[psutil.Process]:
    """Ollama's own runners whose daemon was killed: nothing but memory comes of them."""
    found = []
    for process in runners():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            # One that is just ending has a name, and no command line any more.
            is_own = process.name() != "llama-server" or _OWN.search("".join(command[:1]))
            if is_own and BLOB.search(" ".join(command)) and _is_orphan(process):
                found.append(process)
    return found


def _is_runner(process: psutil.Process) -> bool:
    name = process.info["name"]
    return name in _RUNNERS or (name in _DAEMONS and process.cmdline()[1:2] == ["runner"])


def _is_orphan(process: psutil.Process) -> bool:
    """No daemon is its parent, and who began its group, as daemons do, is gone."""
    parent = process.parent()  # another: the first process, or one that takes orphans
    if parent is not None and parent.name() in _DAEMONS:
        return False
    try:
        return not psutil.pid_exists(os.getpgid(process.pid))
    except OSError:  # it ended just now
        return False
