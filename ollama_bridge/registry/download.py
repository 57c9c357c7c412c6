"""Gets a model's files from a registry: resumed, checked while they come, complete or absent."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import httpx

from ollama_bridge.assets import disk_full
from ollama_bridge.errors import RegistryBusyError, RegistryContentError
from ollama_bridge.registry.manifest import MANIFEST_TYPE, Layer, Manifest, parse_manifest
from ollama_bridge.registry.session import RegistrySession, Request
from ollama_bridge.storage.atomic_files import raise_if_disk_full

_OCI_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
# Attempts without a byte of progress, for one file: over a minute and a half, with their pauses.
_FRUITLESS_LIMIT = 8
# Attempts at all, with one more a MiB.
_ATTEMPT_LIMIT = 20
_PIECE_BYTES = 1024**2
# Ends the name of a file that is not whole yet.
PARTIAL = ".partial"

OnBytes = Callable[[int], None]


def fetch_manifest(session: RegistrySession) -> tuple[Manifest, bytes]:
    """The manifest of a tag, checked, and its bytes as they are.

    Raises:
        RegistryError: there is none, or no answer.
        RegistryContentError: it is damaged or hostile.
    """
    reference = session.reference
    headers = {"Accept": f"{MANIFEST_TYPE}, {_OCI_MANIFEST_TYPE};q=0.5"}
    reply = session.send(Request("GET", f"manifests/{reference.tag}", headers), wanted=(200,))
    return parse_manifest(reply.body, where=str(reference)), reply.body


def check_room(folder: Path, size_bytes: int) -> None:
    """Refuse to begin what cannot end.

    Raises:
        DiskFullError: less than ``size_bytes`` is free.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < size_bytes:
        raise disk_full(folder)


def blob_name(digest: str) -> str:
    """What a file is called on its way."""
    return digest.replace(":", "-")


def fetch_blob(session: RegistrySession, layer: Layer, folder: Path, *, on_bytes: OnBytes) -> Path:
    """Get one file, checked; what an earlier attempt left of it is not fetched again.

    ``on_bytes`` hears how many bytes of the file are here.

    Raises:
        RegistryError: it breaks off again and again; run it again to go on.
        RegistryContentError: other bytes than the manifest says; nothing is kept.
        DiskFullError: no room; what came is kept.
    """
    target = folder / blob_name(layer.digest)
    partial = target.with_name(f"{target.name}{PARTIAL}")
    if target.is_file() and target.stat().st_size == layer.size_bytes:
        on_bytes(layer.size_bytes)
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _complete(session, layer, partial, on_bytes)
        partial.replace(target)
    except OSError as exc:
        raise_if_disk_full(exc, folder)
        raise
    return target


def _complete(session: RegistrySession, layer: Layer, partial: Path, on_bytes: OnBytes) -> None:
    hasher = hashlib.sha256()
    with partial.open("a+b") as stream:
        offset = _hash_present(stream, hasher, layer.size_bytes)
        fruitless, attempts_left = 0, _ATTEMPT_LIMIT + layer.size_bytes // 1024**2
        while offset < layer.size_bytes:
            before, attempts_left = offset, attempts_left - 1
            try:
                for piece in _pieces_from(session, layer, offset):
                    stream.write(piece)
                    hasher.update(piece)
                    offset += len(piece)
                    on_bytes(offset)
                if offset < layer.size_bytes:
                    raise RegistryBusyError(
                        f"registry {session.reference.host} sent {offset} of {layer.size_bytes} "
                        f"bytes of {layer.digest}",
                        hint="run the same command again; it resumes where it stopped",
                    )
            except RegistryBusyError as error:
                fruitless = 0 if offset > before else fruitless + 1
                if fruitless == _FRUITLESS_LIMIT or not attempts_left:
                    raise
                session.pause(fruitless + 1, error.retry_after_s)
        stream.flush()
        os.fsync(stream.fileno())
    if f"sha256:{hasher.hexdigest()}" != layer.digest:
        partial.unlink()
        raise RegistryContentError(
            f"registry {session.reference.host} sent other bytes than {layer.digest}",
            hint="run the same command again; if it happens again, do not trust this registry",
        )


def _hash_present(stream: BinaryIO, hasher: hashlib._Hash, size_bytes: int) -> int:
    """Take over what an earlier attempt left, unless it is too much."""
    if stream.seek(0, os.SEEK_END) > size_bytes:
        stream.truncate(0)
    stream.seek(0)
    while piece := stream.read(_PIECE_BYTES):
        hasher.update(piece)
    return stream.tell()


def _pieces_from(session: RegistrySession, layer: Layer, offset: int) -> Iterator[bytes]:
    """The file from a place on; where the registry begins at the front, that is left out."""
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    # One attempt: the caller counts them, and goes on from further each time.
    request = Request("GET", f"blobs/{layer.digest}", headers, attempts=1)
    with session.stream(request, wanted=(200, 206) if offset else (200,)) as response:
        begins = _check_reply(response, layer, offset, session)
        skipped = offset - begins
        for piece in session.pieces(response, layer.size_bytes - begins):
            rest = piece[skipped:]
            skipped -= len(piece) - len(rest)
            if rest:
                yield rest


def _check_reply(
    response: httpx.Response, layer: Layer, offset: int, session: RegistrySession
) -> int:
    """Where the reply begins in the file; refuses one of another length before a byte of it."""
    begins, whole = 0, response.headers.get("Content-Length")
    if response.status_code == 206:
        match = re.fullmatch(
            r"bytes (\d{1,15})-\d{1,15}/(\d{1,15}|\*)", response.headers.get("Content-Range", "")
        )
        if match is None or int(match[1]) != offset:
            raise RegistryContentError(
                f"registry {session.reference.host} sent another part of {layer.digest} than the "
                "one asked for"
            )
        begins, whole = offset, match[2]
    told = re.fullmatch(r"[0-9]{1,15}", whole or "")
    if told and int(told[0]) != layer.size_bytes:
        raise RegistryContentError(
            f"registry {session.reference.host} has {layer.digest} with {int(told[0])} bytes, its "
            f"manifest says {layer.size_bytes}",
            hint="do not trust this registry",
        )
    return begins
