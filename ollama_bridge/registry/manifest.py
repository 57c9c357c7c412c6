"""Manifests of models: read with suspicion, written byte for byte as Ollama writes them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from ollama_bridge.digests import canonical_json, digest_text
from ollama_bridge.errors import RegistryContentError

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
MODEL_TYPE = "application/vnd.ollama.image.model"
# Files that a daemon's runner opens as GGUF.
_GGUF_TYPES = (
    MODEL_TYPE,
    "application/vnd.ollama.image.adapter",
    "application/vnd.ollama.image.projector",
)
LICENSE_TYPE = "application/vnd.ollama.image.license"
_OLLAMA_TYPES = "application/vnd.ollama.image."
OWN_TYPES = "application/vnd.ollama-bridge."

# Far above what models need (a model of separate tensors has some thousand layers), and small
# enough for a machine to read.
MANIFEST_LIMIT_BYTES = 4 * 1024**2
_LAYER_LIMIT = 10_000
_BLOB_LIMIT_BYTES = 2**43
_TEXT_LIMIT = 512
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# Go's encoder writes these so, whatever they stand in.
_GO_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


@dataclass(frozen=True)
class Layer:
    """One file of a model.

    Attributes:
        digest: ``sha256:<hex>``.
        source: What the daemon made it of (Ollama's ``from``): the name of a file or a tag.
        name: Of a tensor; models of one GGUF have none.
    """

    media_type: str
    digest: str
    size_bytes: int
    source: str = ""
    name: str = ""

    def to_json(self) -> dict[str, object]:
        """As it stands in a manifest, in Ollama's order."""
        optional = {"from": self.source, "name": self.name}
        return {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size_bytes,
            **{key: value for key, value in optional.items() if value},
        }


@dataclass(frozen=True)
class Manifest:
    """The list of a model's files."""

    config: Layer
    layers: tuple[Layer, ...]

    @property
    def blobs(self) -> tuple[Layer, ...]:
        """Every file once, as Ollama uploads them: layers first, then the config."""
        return tuple({layer.digest: layer for layer in (*self.layers, self.config)}.values())

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(blob.size_bytes for blob in self.blobs)

    @property
    def opened(self) -> frozenset[str]:
        """Digests of what a daemon's runner opens as GGUF, whatever else the same file is."""
        layers = (*self.layers, self.config)
        return frozenset(layer.digest for layer in layers if layer.media_type in _GGUF_TYPES)

    @property
    def model_digest(self) -> str:
        """Digest of the weights; empty where they are not in one file."""
        return next((x.digest for x in self.layers if x.media_type == MODEL_TYPE), "")

    @property
    def subject(self) -> str:
        """Digest of all that decides what is answered: not licences, nor what we add ourselves."""
        deciding = [
            [layer.media_type, layer.digest, layer.name]
            for layer in (self.config, *self.layers)
            if layer.media_type != LICENSE_TYPE and not layer.media_type.startswith(OWN_TYPES)
        ]
        return f"sha256:{digest_text(canonical_json(deciding))}"

    def without_paths(self) -> Manifest:
        """The same without paths of a machine, which older daemons write into a layer's source."""
        layers = tuple(
            replace(layer, source="") if layer.source.startswith("/") else layer
            for layer in self.layers
        )
        return Manifest(self.config, layers)

    def own_layers(self) -> tuple[Layer, ...]:
        """The layers that ollama-bridge added."""
        return tuple(x for x in self.layers if x.media_type.startswith(OWN_TYPES))

    def with_layers(self, added: Iterable[Layer]) -> Manifest:
        """The same with our layers replaced by these, and with licences that are not there yet."""
        kept = [layer for layer in self.layers if not layer.media_type.startswith(OWN_TYPES)]
        known = {(layer.media_type, layer.digest) for layer in kept}
        new = [layer for layer in added if (layer.media_type, layer.digest) not in known]
        return Manifest(self.config, (*kept, *new))

    def to_bytes(self) -> bytes:
        """As Ollama's push sends it; so its digest is the same, whoever pushes."""
        return go_json(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": self.config.to_json(),
                "layers": [layer.to_json() for layer in self.layers],
            }
        )


def go_json(value: Mapping[str, Any], *, sort_keys: bool = False) -> bytes:
    """JSON as Go's encoder writes it: structures in their own order, maps by key."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, sort_keys=sort_keys)
    for character, escape in _GO_ESCAPES.items():
        text = text.replace(character, escape)
    return text.encode()


def digest_bytes(content: bytes) -> str:
    """``sha256:<hex>`` of bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def parse_manifest(raw: bytes, *, where: str) -> Manifest:
    """Read a manifest; nothing in it may name a path, lie about a type, or be absurdly large.

    Raises:
        RegistryContentError: naming the first wrong part.
    """
    if len(raw) > MANIFEST_LIMIT_BYTES:
        _refuse(where, f"more than {MANIFEST_LIMIT_BYTES} bytes")

    def read_object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        # As Go does it in the daemon, to which MEDIATYPE is mediaType, and the last of both counts.
        found = {key.casefold(): value for key, value in pairs}
        if len(found) != len(pairs):
            _refuse(where, "contradictory: a key appears twice in one object")
        return found

    try:
        data = json.loads(raw, object_pairs_hook=read_object)
    except (ValueError, RecursionError) as exc:
        raise RegistryContentError(f"{where}: the manifest is not JSON") from exc
    if not isinstance(data, dict):
        _refuse(where, "not an object")
    if "manifests" in data:
        _refuse(where, "a list of images for several platforms, which no model is")
    if data.get("schemaversion") != 2:
        _refuse(where, f"of schema {data.get('schemaversion')!r}, not 2")
    entries = data.get("layers")
    if not isinstance(entries, list) or not 0 < len(entries) <= _LAYER_LIMIT:
        _refuse(where, f"without a list of 1 to {_LAYER_LIMIT} layers")
    layers = tuple(_layer(item, f"layer {n}", where) for n, item in enumerate(entries, start=1))
    manifest = Manifest(_layer(data.get("config"), "config", where), layers)
    sizes: dict[str, int] = {}
    for layer in (*layers, manifest.config):
        if sizes.setdefault(layer.digest, layer.size_bytes) != layer.size_bytes:
            _refuse(where, f"contradictory: {layer.digest} has two sizes")
    if not any(layer.media_type.startswith(_OLLAMA_TYPES) for layer in layers):
        _refuse(where, f"not of a model of Ollama, but of {layers[0].media_type}")
    return manifest


def _layer(item: object, part: str, where: str) -> Layer:
    if not isinstance(item, dict):
        _refuse(where, f"damaged: {part} is not an object")
    entry: Mapping[str, Any] = item
    digest, size_bytes = entry.get("digest"), entry.get("size")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        _refuse(where, f"wrong: {part} has the digest {_shown(digest)}")
    whole = isinstance(size_bytes, int) and not isinstance(size_bytes, bool)
    if not whole or not 0 <= int(str(size_bytes)) <= _BLOB_LIMIT_BYTES:
        _refuse(where, f"wrong: {part} has the size {_shown(size_bytes)}")
    texts = [entry.get(key) or "" for key in ("mediatype", "from", "name")]
    for text in texts:
        if not isinstance(text, str) or len(text) > _TEXT_LIMIT or not text.isprintable():
            _refuse(where, f"wrong: {part} has the type, source or name {_shown(text)}")
    media_type, source, name = texts
    return Layer(str(media_type), digest, int(str(size_bytes)), str(source), str(name))


def _shown(value: object) -> str:
    return repr(value)[:80]


def _refuse(where: str, reason: str) -> NoReturn:
    raise RegistryContentError(
        f"{where}: its manifest is {reason}",
        hint="check the name; if it is right, do not trust where it comes from",
    )
