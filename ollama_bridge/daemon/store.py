"""Reads a daemon's model store: from a tag to the GGUF file of its weights.

Blobs are named by their digest, so a file of that name is the right one whichever store it lies
in. Its bytes are not read here: who imports them checks them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ollama_bridge.client import Client
from ollama_bridge.client.model_names import find_model
from ollama_bridge.errors import DaemonError, RequestRejectedError

_ASKED_TAGS = 3
_MODEL_LAYER = "application/vnd.ollama.image.model"
_BLOB_NAME = re.compile(r"sha256[-:]([0-9a-f]{64})$")


@dataclass(frozen=True)
class Blob:
    """The weights of a tag.

    Attributes:
        digest: As Ollama spells it: ``sha256:<hex>``.
        path: The file, where the store is on this machine and may be read; else None.
        size_bytes: Size of the file; where there is none, what the daemon says of the whole tag.
        is_adapted: Whether the tag has an ADAPTER: then it is not what the file alone holds.
    """

    digest: str
    path: Path | None
    size_bytes: int
    is_adapted: bool = False


def locate_blob(client: Client, tag: str) -> Blob:
    """Find the GGUF that a tag serves.

    Raises:
        ModelNotFoundError: the daemon has no such tag.
        DaemonError: the tag has no GGUF of its own (a cloud model, or another format).
    """
    modelfile = client.show(tag).modelfile
    source, is_adapted = _from_line(modelfile), _has_adapter(modelfile)
    path = Path(source) if source is not None else None
    match = _BLOB_NAME.search(source or "")
    digest = f"sha256:{match[1]}" if match else _manifest_digest(client, tag)
    if digest is None:
        raise DaemonError(
            f"{tag} has no weights in a model store (its Modelfile says FROM {source})",
            hint=f"use a model that was pulled or created here: ollama pull {tag}",
            model=tag,
        )
    for candidate in _candidates(path, digest):
        size_bytes = _readable_size(candidate)
        if size_bytes is not None:
            return Blob(digest, candidate, size_bytes, is_adapted)
    return Blob(digest, None, _listed_size(client, tag), is_adapted)


def blob_folders(client: Client) -> Iterator[Path]:
    """Where the daemon's blobs may lie on this machine, the likeliest first; none has to be it."""
    for model in client.list()[:_ASKED_TAGS]:
        with contextlib.suppress(RequestRejectedError):  # a tag may be broken, or gone by now
            source = _from_line(client.show(model.name).modelfile)
            if source is not None and _BLOB_NAME.search(source):
                yield Path(source).parent
                break
    for store in _stores():
        yield store / "blobs"


@dataclass(frozen=True)
class StoredManifest:
    """A tag's manifest, of which only the digest is checked, and the store that it lies in.

    Attributes:
        digest: As the daemon lists it.
    """

    content: bytes
    store: Path
    digest: str

    def blob_path(self, digest: str) -> Path:
        """Where a file of the model lies."""
        return self.store / "blobs" / digest.replace(":", "-")

    def read(self, digest: str) -> bytes:
        """A small file of the model.

        Raises:
            DaemonError: the store does not have it.
        """
        try:
            return self.blob_path(digest).read_bytes()
        except OSError as exc:
            raise DaemonError(
                f"{self.blob_path(digest)} cannot be read: {exc.strerror}",
                hint="the model is damaged: pull or create it again",
            ) from exc


def find_manifest(client: Client, tag: str) -> StoredManifest | None:
    """The manifest of a tag; None where the daemon's store is not on this machine or not readable.

    Raises:
        ModelNotFoundError: the daemon has no such tag.
        DaemonError: it does not answer.
    """
    listed = find_model(client.list(), tag)
    if listed is None:
        return None
    # Its file is called as the daemon lists it; file names have a case.
    name, _, label = _full_name(listed.name).rpartition(":")
    blob = Path(_from_line(client.show(tag).modelfile) or "")
    shown = [blob.parent.parent] if _BLOB_NAME.search(blob.name) and blob.is_absolute() else []
    for store in (*shown, *_stores()):
        try:
            content = (store / "manifests" / name / label).read_bytes()
        except OSError:
            continue
        # A tag's digest is that of its manifest: so a store of another daemon is not mistaken. What
        # the daemon's decoder leaves unread is not in it: a last newline.
        for candidate in (content, content.removesuffix(b"\n")):
            if hashlib.sha256(candidate).hexdigest() == listed.digest.removeprefix("sha256:"):
                return StoredManifest(content, store, listed.digest)
    return None


def _from_line(modelfile: str) -> str | None:
    """The value of the first FROM: a model comes first, projectors and drafts follow."""
    for line in modelfile.splitlines():
        command, _, value = line.strip().partition(" ")
        if command.upper() == "FROM" and value.strip():
            return value.strip().strip('"')
    return None


def _has_adapter(modelfile: str) -> bool:
    """Whether an ADAPTER follows the first FROM: the daemon writes it there, and texts later."""
    _, _, behind = f"\n{modelfile}".partition("\nFROM ")
    return behind.partition("\n")[2].startswith("ADAPTER ")


def _candidates(path: Path | None, digest: str) -> Iterator[Path]:
    name = digest.replace(":", "-")
    # A daemon in a container may name a path that means something else here.
    if path is not None and path.name == name:
        yield path
    for store in _stores():
        yield store / "blobs" / name


def _stores() -> Iterator[Path]:
    for named in (os.environ.get("OLLAMA_MODELS"), "~/.ollama/models"):
        with contextlib.suppress(RuntimeError):  # a user without a home has none there
            if named:
                yield Path(named).expanduser()
    yield Path("/usr/share/ollama/.ollama/models")  # the Linux service of the official installer


def _readable_size(path: Path) -> int | None:
    try:
        with path.open("rb") as stream:
            return os.fstat(stream.fileno()).st_size
    except OSError:
        return None


def _manifest_digest(client: Client, tag: str) -> str | None:
    """Digest of the model layer, from a local manifest that is the daemon's own."""
    stored = find_manifest(client, tag)
    if stored is None:
        return None
    try:
        data: Any = json.loads(stored.content)
        found = (str(x["digest"]) for x in data["layers"] if x["mediaType"] == _MODEL_LAYER)
        return next(found, None)
    except (ValueError, KeyError, TypeError):
        return None


def _listed_size(client: Client, tag: str) -> int:
    listed = find_model(client.list(), tag)
    return 0 if listed is None else listed.size_bytes


def _full_name(tag: str) -> str:
    """``registry.ollama.ai/library/name:latest``: all four parts of a tag."""
    parts = tag.rsplit("/", 2)
    missing = ("registry.ollama.ai", "library")[: 3 - len(parts)]
    label = "" if ":" in parts[-1] else ":latest"
    return f"{'/'.join((*missing, *parts))}{label}"
