"""Sends files to a registry in chunks, and goes on where an earlier attempt stopped."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ollama_bridge.digests import digest_file
from ollama_bridge.errors import ArtifactError, RegistryBusyError, RegistryError
from ollama_bridge.registry.manifest import MANIFEST_TYPE, Layer, Manifest, digest_bytes
from ollama_bridge.registry.session import RegistrySession, Reply, Request
from ollama_bridge.registry.unfinished import Unfinished, UploadRecords

# Amazon's registry takes no chunk below 5 MiB but for the last, GitHub's none above 4 MiB, and a
# proxy in front of one often none above 1 MiB: so they begin large, and become smaller.
_CHUNK_BYTES = 8 * 1024**2
_LEAST_CHUNK_BYTES = 1024**2
_MOST_CHUNK_BYTES = 1024**3
# Attempts without a byte of progress, for one file; and attempts at all, with one more a MiB.
_FRUITLESS_LIMIT = 4
_ATTEMPT_LIMIT = 20
# Times that a registry may lose an upload that came no further than one before it.
_LOSS_LIMIT = 4
_SAME_PLACE = 0.9  # of the farthest that one came
# Over a minute and a half, with their pauses: a line that is away for long comes back.
_STATUS_ATTEMPTS = 9
# A 500 may be all that a registry ever says to such a request.
_FAULT_ATTEMPTS = 3
_NO_DOCKER = (
    "Ollama's manifests are Docker's (schema 2), which it may not take; zot does by "
    '"http": {"compat": ["docker2s2"]} in its settings'
)
_LISTED_TYPES = (
    "it takes types of a list of its own alone (GitLab's does); if the type is one of "
    "ollama-bridge's, publish with --no-card"
)
# How fast a registry at least reads what it has stored, when it checks the digest at the end.
_CHECK_BYTES_PER_S = 20e6

OnBytes = Callable[[int], None]


@dataclass(frozen=True)
class Blob:
    """A file to send.

    Attributes:
        path: Where it lies; None: it is ``content``.
        content: A small file that lies nowhere.
    """

    layer: Layer
    path: Path | None = None
    content: bytes = b""

    def read(self, offset: int, size_bytes: int) -> bytes:
        """A piece of it.

        Raises:
            ArtifactError: it cannot be read, or is shorter than it should be.
        """
        wanted = min(size_bytes, self.layer.size_bytes - offset)
        if self.path is None:
            return self.content[offset : offset + wanted]
        try:
            with self.path.open("rb") as stream:
                stream.seek(offset)
                piece = stream.read(wanted)
        except OSError as exc:
            raise ArtifactError(f"cannot read {self.path}: {exc.strerror}") from exc
        if len(piece) != wanted:
            raise ArtifactError(
                f"{self.path} is shorter than the {self.layer.size_bytes} bytes that its manifest "
                "says",
                hint="the model in Ollama is damaged: pull or create it again",
            )
        return piece

    def check(self) -> None:
        """Read it all, and hold it against its digest.

        Raises:
            ArtifactError: it cannot be read, or is another file than its digest is of.
        """
        try:
            same = self.path is None or f"sha256:{digest_file(self.path)}" == self.layer.digest
        except OSError as exc:
            raise ArtifactError(f"cannot read {self.path}: {exc.strerror}") from exc
        if not same:
            raise ArtifactError(
                f"{self.path} is not what its name says: it was changed in place, or the disk is "
                "damaged",
                hint="remove every tag that has it (ollama rm TAG), then pull or create it again",
            )


def is_present(session: RegistrySession, digest: str) -> bool:
    """Whether the repository has a file.

    Raises:
        RegistryError: no answer.
    """
    # Gateways that know no HEAD: whether it is there comes out when it is sent.
    reply = session.send(Request("HEAD", f"blobs/{digest}"), wanted=(200, 404, 405, 501))
    return reply.status_code == 200


def push_blob(
    session: RegistrySession,
    blob: Blob,
    *,
    records: UploadRecords,
    on_bytes: OnBytes,
    mount_from: str | None = None,
    chunk_bytes: int = _CHUNK_BYTES,
) -> int:
    """Send a file that the repository does not have; returns how many bytes of it were sent.

    ``on_bytes`` hears how many bytes the registry has; the repository ``mount_from`` of the same
    registry may have the file already. Chunks become larger where the registry wants that, and
    smaller where it, or what stands in front of it, takes no more.

    Raises:
        RegistryError: refused, or it breaks off again and again; run it again to go on.
        ArtifactError: the file cannot be read.
    """
    upload = _Upload(session, blob, records, on_bytes, chunk_bytes)
    upload.run(mount_from)
    return 0 if upload.mounted else blob.layer.size_bytes - upload.resumed_bytes


@dataclass
class _Upload:
    session: RegistrySession
    blob: Blob
    records: UploadRecords
    on_bytes: OnBytes
    chunk_bytes: int
    least_chunk_bytes: int = _LEAST_CHUNK_BYTES
    location: str = ""
    offset: int = 0
    mounted: bool = False
    resumed_bytes: int = 0  # of this upload, sent by an earlier command

    def run(self, mount_from: str | None) -> None:
        self._find_earlier()
        size_bytes = self.blob.layer.size_bytes
        fruitless, attempts_left = 0, _ATTEMPT_LIMIT + size_bytes // 1024**2
        farthest = losses = 0
        while True:
            before, attempts_left = self.offset, attempts_left - 1
            try:
                if not self.location and self._begin(mount_from):
                    return
                self._send()
                return
            except RegistryError as error:
                if self._shrink(error):
                    continue
                fruitless = 0 if self.offset > before else fruitless + 1
                given_up = fruitless == _FRUITLESS_LIMIT or attempts_left <= 0
                if given_up or not _is_worth_going_on(error):
                    raise
                wish_s = error.retry_after_s if isinstance(error, RegistryBusyError) else None
                self.session.pause(max(fruitless, losses) + 1, wish_s)
                reached, had_begun = self.offset, bool(self.location)
                if error.status_code == 416 and fruitless > 1:
                    self._forget()  # it tells a place to go on at which it does not go on
                else:
                    self._ask_status()
                if had_begun and not self.location and self._has_arrived():
                    return
                # A line that breaks now here, now there, loses nothing by a limit.
                at_limit = error.status_code is not None or reached > _SAME_PLACE * farthest
                if self.offset < reached and at_limit:
                    # Counted by how far it came: each new upload gains what this one lost.
                    losses = 0 if reached > farthest else losses + 1
                    farthest = max(farthest, reached)
                    if losses == _LOSS_LIMIT:
                        error.hint = (
                            f"it loses what it is sent, {farthest} of {size_bytes} bytes at most: "
                            "is its disk full, or is there a limit of size or time?"
                        )
                        raise

    def _has_arrived(self) -> bool:
        """Whether the file is there though no answer said so.

        A proxy may wait less than a large file is checked, and then the upload is gone.
        """
        arrived = is_present(self.session, self.blob.layer.digest)
        if arrived:
            self.on_bytes(self.blob.layer.size_bytes)
        return arrived

    def _shrink(self, error: RegistryError) -> bool:
        """Send smaller chunks from now on; False where their size is not what was refused."""
        # Of the range of a first chunk there is nothing to refuse: some say 416 of its size.
        too_large = error.status_code == 413 or (error.status_code == 416 and not self.offset)
        if not too_large or self.chunk_bytes <= self.least_chunk_bytes:
            return False
        self.chunk_bytes = max(self.least_chunk_bytes, self.chunk_bytes // 2)
        if self.offset:
            self._ask_status()
        else:
            self._forget()
        return True

    def _begin(self, mount_from: str | None) -> bool:
        """Open an upload; True where the registry could take the file from ``mount_from``."""
        reply = self._mount(mount_from) if mount_from else None
        if reply is None:
            # One attempt, as for all that follows: run() counts them.
            request = Request("POST", "blobs/uploads/", attempts=1)
            reply = self.session.send(request, wanted=(201, 202))
        if reply.status_code == 201:
            self.mounted = True
            self.on_bytes(self.blob.layer.size_bytes)
            return True
        self.offset = self.resumed_bytes = 0
        least = reply.headers.get("OCI-Chunk-Min-Length", "")
        if re.fullmatch(r"[0-9]{1,10}", least) and int(least) <= _MOST_CHUNK_BYTES:
            self.least_chunk_bytes = max(self.least_chunk_bytes, int(least))
            self.chunk_bytes = max(self.chunk_bytes, int(least))
        self._follow(reply)
        return False

    def _mount(self, mount_from: str) -> Reply | None:
        """Ask for a file of another repository; None where nothing may be taken from there."""
        url = f"blobs/uploads/?mount={self.blob.layer.digest}&from={mount_from}"
        request = Request("POST", url, attempts=1, also_pull=mount_from)
        try:
            return self.session.send(request, wanted=(201, 202))
        except RegistryError as error:
            if error.status_code not in (401, 403, 404):
                raise
            return None  # it was to save bytes, no more

    def _send(self) -> None:
        size_bytes = self.blob.layer.size_bytes
        # What fits in one chunk goes with the closing request.
        while size_bytes - self.offset > 0 and size_bytes > self.chunk_bytes:
            self._send_chunk(self.blob.read(self.offset, self.chunk_bytes))
        self._close(self.blob.read(self.offset, self.chunk_bytes))
        self.records.forget(self.session, self.blob.layer.digest)
        self.on_bytes(size_bytes)

    def _send_chunk(self, chunk: bytes) -> None:
        end = self.offset + len(chunk)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{self.offset}-{end - 1}",
        }
        # Never repeated blindly: how much of it arrived is the registry's to say.
        request = Request("PATCH", self.location, headers=headers, content=chunk, attempts=1)
        # 202 by the protocol; Amazon's says 201, go-containerregistry's said 204 until April 2026.
        self._follow(self.session.send(request, wanted=(201, 202, 204)))
        self.offset = end
        self.on_bytes(end)

    def _close(self, rest: bytes) -> None:
        joint = "&" if "?" in self.location else "?"
        request = Request(
            "PUT",
            f"{self.location}{joint}digest={self.blob.layer.digest}",
            headers={"Content-Type": "application/octet-stream"},
            content=rest,
            patience_s=self.blob.layer.size_bytes / _CHECK_BYTES_PER_S,
            attempts=1,
        )
        try:
            self.session.send(request, wanted=(201, 204))
        except RegistryError as error:
            if error.status_code == 400:
                if self._has_arrived():  # by an attempt before, whose answer was lost
                    return
                # It holds other bytes than the digest says, and may keep them for whoever goes on.
                self._forget()
                self.blob.check()
                if "digest" in str(error).lower():
                    error.hint = "run the same command again: something on the way changes it"
            raise

    def _follow(self, reply: Reply) -> None:
        if not reply.location:
            raise RegistryError(
                f"registry {self.session.reference.host} does not say where to upload to",
                status_code=reply.status_code,
            )
        self.session.check_target(reply.location)
        self.location = reply.location
        found = Unfinished(self.location, self.chunk_bytes)
        self.records.write(self.session, self.blob.layer.digest, found)

    def _find_earlier(self) -> None:
        found = self.records.read(self.session, self.blob.layer.digest)
        self.location = found.location
        if 0 < found.chunk_bytes <= _MOST_CHUNK_BYTES:
            self.chunk_bytes = found.chunk_bytes
        if self.location:
            self._ask_status()
        self.resumed_bytes = self.offset

    def _ask_status(self) -> None:
        """Where to go on: where the registry says, or at the beginning of a new upload."""
        if not self.location:
            return
        try:
            reply = self._read_status()
        except RegistryError as error:
            if _is_not_now(error):
                raise
            self._forget()  # not every registry answers this, nor for an upload that it has lost
            return
        match = re.fullmatch(r"(?:bytes=)?0-(\d{1,15})", reply.headers.get("Range", ""))
        if reply.status_code != 204 or match is None:
            self._forget()
            return
        # An empty upload says 0-0, as one of a single byte would; none of ours is that short.
        self.offset = int(match[1]) + 1 if int(match[1]) else 0
        self.resumed_bytes = min(self.resumed_bytes, self.offset)
        if self.offset > self.blob.layer.size_bytes:
            self._forget()
            return
        if reply.location:
            self._follow(reply)
        self.on_bytes(self.offset)

    def _read_status(self) -> Reply:
        request = Request("GET", self.location, attempts=_STATUS_ATTEMPTS)
        for attempt in range(_FAULT_ATTEMPTS):
            if attempt:
                self.session.pause(attempt)
            reply = self.session.send(request, wanted=(204, 400, 403, 404, 410, 416, 500))
            if reply.status_code != 500:
                break
        return reply

    def _forget(self) -> None:
        self.records.forget(self.session, self.blob.layer.digest)
        self.location, self.offset = "", 0


def push_manifest(session: RegistrySession, manifest: Manifest) -> str:
    """Send the manifest, which makes the tag; returns its digest.

    Raises:
        RegistryError: refused, or the registry says that it holds something else.
    """
    content = manifest.to_bytes()
    request = Request(
        "PUT",
        f"manifests/{session.reference.tag}",
        headers={"Content-Type": MANIFEST_TYPE},
        content=content,
    )
    try:
        reply = session.send(request, wanted=(200, 201))
    except RegistryError as error:
        # Of 400 there are other reasons; zot says this one.
        if "unknown media type" in str(error).lower():
            error.hint = _LISTED_TYPES
        elif error.status_code == 415 or "MANIFEST_INVALID" in str(error):
            error.hint = _NO_DOCKER
        raise
    digest = digest_bytes(content)
    told = reply.headers.get("Docker-Content-Digest", digest)
    if told != digest:
        raise RegistryError(
            f"registry {session.reference.host} holds {told[:80]!r} instead of {digest}",
            hint="something between here and the registry changes what is sent",
        )
    return digest


def _is_worth_going_on(error: RegistryError) -> bool:
    """Whether the upload, or a new one, may succeed: not if we are not let in, say."""
    return isinstance(error, RegistryBusyError) or error.status_code in (404, 416)


def _is_not_now(error: RegistryError) -> bool:
    """Whether what was uploaded may well be there later: no answer, too busy, or not let in."""
    return isinstance(error, RegistryBusyError) or error.status_code in (401, None)
