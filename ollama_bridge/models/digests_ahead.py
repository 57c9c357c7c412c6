"""Digests of weights, begun before they are asked for.

Loading the modules that a command needs takes half a second of one core; meanwhile another one
hashes a gigabyte.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ollama_bridge.artifacts import MANIFEST_NAME
from ollama_bridge.digests import digest_file
from ollama_bridge.errors import ModelError, ModelReferenceError
from ollama_bridge.machine import cores
from ollama_bridge.models.links import file_state
from ollama_bridge.models.references import parse_reference
from ollama_bridge.models.weight_files import weights_files

_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True)
class _Begun:
    """A digest that is on its way.

    Attributes:
        state: Of the file when it was begun.
    """

    state: tuple[int, int, int]
    digest: Future[str] = field(default_factory=Future)


_begun: dict[Path, _Begun] = {}


def begin_digests(reference: str) -> None:
    """Begin to hash the weights of a checkpoint's folder; of other references nothing is done.

    What is wrong with a reference or a folder is told by who resolves it. Nothing waits for the
    thread: it ends with the process, if the command does before it.
    """
    with contextlib.suppress(ModelReferenceError, ModelError, OSError):
        parsed = parse_reference(reference)
        folder = parsed.path
        if parsed.kind != "folder" or (folder / MANIFEST_NAME).is_file():  # which has them
            return
        files = {path: _Begun(file_state(path)) for path in weights_files(folder)}
        _begun.update(files)
        threading.Thread(target=_hash, args=(files,), daemon=True).start()


def digests_of(paths: Sequence[Path]) -> list[str]:
    """sha256 of each file, in hex; of as many at a time as there are cores."""
    with ThreadPoolExecutor(cores()) as threads:
        return list(threads.map(_digest_of, paths))


def _hash(files: dict[Path, _Begun]) -> None:
    for path, begun in files.items():
        if not begun.digest.set_running_or_notify_cancel():
            continue
        try:
            begun.digest.set_result(_digest_beside(path))
        except Exception as exc:  # somebody waits for it
            begun.digest.set_exception(exc)


def _digest_beside(path: Path) -> str:
    """sha256 of a file, while another thread runs Python.

    Between blocks this one has to wait until the other gives way, which takes up to 5 ms: blocks of
    ``hashlib.file_digest`` are hashed in a fifth of one.
    """
    sha256 = hashlib.sha256()
    block = memoryview(bytearray(_BLOCK_BYTES))
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(block):
            sha256.update(block[:count])
    return sha256.hexdigest()


def _digest_of(path: Path) -> str:
    begun = _begun.pop(path, None)
    if begun is None or begun.digest.cancel():  # it was not its turn yet
        return digest_file(path)
    with contextlib.suppress(OSError, MemoryError):
        digest = begun.digest.result()
        if file_state(path) == begun.state:
            return digest
    return digest_file(path)
