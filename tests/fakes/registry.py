"""A registry in memory, which httpx is given as its network, and which can be told to fail.

The real one is in ``real_registry``; this is for what a real one does not do on demand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import httpx

from ollama_bridge.registry.credentials import Credentials
from ollama_bridge.registry.manifest import CONFIG_TYPE, MODEL_TYPE, Layer, Manifest, digest_bytes
from ollama_bridge.registry.reference import RegistryReference
from ollama_bridge.registry.session import Limits, RegistrySession

REFERENCE = RegistryReference("registry.example.com", "team/model", "1", plain=False)
QUICK = Limits(pause_s=0.0, longest_pause_s=0.0)

# Looks at a request before the registry does; what it returns or raises is the answer.
Fault = Callable[[httpx.Request], httpx.Response | None]


def layer_of(content: bytes, media_type: str = MODEL_TYPE) -> Layer:
    """The manifest's entry of a file."""
    return Layer(media_type, digest_bytes(content), len(content))


def manifest_of(weights: bytes = b"GGUF weights", config: bytes = b"{}") -> Manifest:
    """A model of one file."""
    return Manifest(layer_of(config, CONFIG_TYPE), (layer_of(weights),))


@dataclass
class MemoryRegistry:
    """Blobs, uploads and manifests of one repository.

    Attributes:
        blobs: By digest.
        manifests: By tag.
        uploads: Unfinished ones, by number.
        elsewhere: Files of other repositories, by digest, that may be mounted.
        fault: See :data:`Fault`.
        asked: Every request.
        ranged: Whether parts of a file can be asked for.
        chunk_limit: Status for whoever sends more bytes than so many with one request.
        taken: Status for a chunk; 201 is Amazon's.
        stuck: Whether the status of an upload tells no more than its first chunk, as Amazon's does.
    """

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    elsewhere: dict[str, bytes] = field(default_factory=dict)
    fault: Fault | None = None
    asked: list[httpx.Request] = field(default_factory=list)
    ranged: bool = True
    chunk_limit: tuple[int, int] | None = None
    taken: int = 202
    stuck: bool = False
    _first_chunks: dict[str, int] = field(default_factory=dict)

    def session(
        self,
        *,
        credentials: Credentials | None = None,
        limits: Limits = QUICK,
    ) -> RegistrySession:
        """A session whose network this is."""
        return RegistrySession(
            REFERENCE,
            actions="pull,push",
            credentials=credentials,
            limits=limits,
            transport=httpx.MockTransport(self),
        )

    def store(self, content: bytes) -> Layer:
        """Put a file in."""
        self.blobs[digest_bytes(content)] = content
        return layer_of(content)

    def paths(self, method: str) -> list[str]:
        """What was asked for by one method."""
        return [request.url.path for request in self.asked if request.method == method]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        request.read()
        self.asked.append(request)
        answer = self.fault(request) if self.fault else None
        if answer is not None:
            return answer
        kind, _, name = request.url.path.removeprefix("/v2/team/model/").partition("/")
        if kind == "manifests":
            return self._manifest(request, name)
        if name.startswith("uploads/"):
            return self._upload(request, name.removeprefix("uploads/"))
        return self._blob(request, name)

    def _manifest(self, request: httpx.Request, tag: str) -> httpx.Response:
        if request.method == "PUT":
            self.manifests[tag] = request.content
            return httpx.Response(201)
        if tag not in self.manifests:
            return refusal(404, "MANIFEST_UNKNOWN", "manifest unknown")
        return httpx.Response(200, content=self.manifests[tag])

    def _blob(self, request: httpx.Request, digest: str) -> httpx.Response:
        content = self.blobs.get(digest)
        if content is None:
            return refusal(404, "BLOB_UNKNOWN", "blob unknown to registry")
        wanted = request.headers.get("Range")
        if wanted is None or not self.ranged:
            return httpx.Response(200, content=content)
        begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
        shown = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        return httpx.Response(206, content=content[begin:], headers={"Content-Range": shown})

    def _upload(self, request: httpx.Request, number: str) -> httpx.Response:
        if request.method == "POST":
            digest = request.url.params.get("mount", "")
            if digest in self.elsewhere:
                self.blobs[digest] = self.elsewhere[digest]
                return httpx.Response(201)
            number = str(len(self.uploads))
            self.uploads[number] = b""
            return self._unfinished(202, number)
        if number not in self.uploads:
            return refusal(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        if request.method == "GET":
            return self._unfinished(204, number)
        if self.chunk_limit and len(request.content) > self.chunk_limit[1]:
            return refusal(self.chunk_limit[0], "SIZE_INVALID", "the request body is too large")
        if request.method == "PATCH":
            begin = int(request.headers["Content-Range"].split("-")[0])
            if begin != len(self.uploads[number]):
                return refusal(416, "RANGE_INVALID", "invalid content range")
            if not begin:
                self._first_chunks[number] = len(request.content)
        self.uploads[number] += request.content
        if request.method == "PATCH":
            return self._unfinished(self.taken, number)
        content = self.uploads.pop(number)
        if f"sha256:{hashlib.sha256(content).hexdigest()}" != request.url.params["digest"]:
            return refusal(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        self.blobs[digest_bytes(content)] = content
        return httpx.Response(201)

    def _unfinished(self, status: int, number: str) -> httpx.Response:
        size_bytes = len(self.uploads[number])
        if status == 204 and self.stuck:
            size_bytes = self._first_chunks.get(number, 0)
        end = max(0, size_bytes - 1)
        location = f"/v2/team/model/blobs/uploads/{number}?_state={end}"
        return httpx.Response(status, headers={"Location": location, "Range": f"0-{end}"})


def refusal(status: int, code: str, message: str) -> httpx.Response:
    """An error as registries write it."""
    return httpx.Response(status, json={"errors": [{"code": code, "message": message}]})


def asks_for(challenge: str) -> httpx.Response:
    """A 401 with its challenge."""
    return httpx.Response(401, headers={"WWW-Authenticate": challenge})


def breaks_after(pieces: Iterable[bytes], **headers: str) -> httpx.Response:
    """A reply that breaks off."""

    def stream() -> Iterator[bytes]:
        yield from pieces
        raise httpx.ReadError("Connection reset by peer")

    return httpx.Response(200, content=stream(), headers=headers)


def token_reply(token: object) -> httpx.Response:
    """What a token service says."""
    return httpx.Response(200, content=json.dumps({"token": token}).encode())
