"""Layers that ollama-bridge adds to a model: its card, certificate and lineage.

Daemons carry layers they do not know through copy, push and pull, and also hand them on to models
that are made FROM this one, whom they say nothing about. So each names what it was written for,
and is held against the manifest that it is found in.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ollama_bridge.errors import ArtifactError
from ollama_bridge.registry.manifest import OWN_TYPES, Layer, Manifest, digest_bytes
from ollama_bridge.registry.upload import Blob

Kind = Literal["card", "certificate", "lineage"]

_SIZE_LIMIT_BYTES = 16 * 1024**2
_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Attachment:
    """One added layer.

    Attributes:
        subject: :attr:`Manifest.subject` of the model that it was written for.
        model: Digest of that model's weights.
        content: What it says: Markdown of a card, JSON of the others.
    """

    kind: str
    subject: str
    model: str
    content: Any

    def belongs_to(self, manifest: Manifest) -> bool:
        """Whether it was written for this model, and not for one that this was made from."""
        return self.subject == manifest.subject and self.model == manifest.model_digest


def attach(manifest: Manifest, kind: Kind, content: object) -> Blob:
    """A layer to add to a model."""
    text = json.dumps(
        {
            "schema_version": _SCHEMA_VERSION,
            "subject": manifest.subject,
            "model": manifest.model_digest,
            "content": content,
        },
        ensure_ascii=False,
        indent=1,
    )
    return small_blob(media_type_of(kind), text.encode())


def small_blob(media_type: str, content: bytes) -> Blob:
    """A layer whose content lies in no file."""
    return Blob(Layer(media_type, digest_bytes(content), len(content)), content=content)


def media_type_of(kind: Kind) -> str:
    """``application/vnd.ollama-bridge.KIND+json``."""
    return f"{OWN_TYPES}{kind}+json"


def read_attachments(
    manifest: Manifest, read_blob: Callable[[str], bytes]
) -> tuple[Attachment, ...]:
    """Every added layer of a model.

    Raises:
        ArtifactError: one is damaged.
    """
    return tuple(_read(layer, read_blob) for layer in manifest.own_layers())


def own_papers(manifest: Manifest, read_blob: Callable[[str], bytes]) -> tuple[Layer, ...]:
    """The added layers that were written for this model: none that is inherited or damaged."""
    found = []
    for layer in manifest.own_layers():
        with contextlib.suppress(ArtifactError):
            if _read(layer, read_blob).belongs_to(manifest):
                found.append(layer)
    return tuple(found)


def _read(layer: Layer, read_blob: Callable[[str], bytes]) -> Attachment:
    kind = layer.media_type.removeprefix(OWN_TYPES).removesuffix("+json")
    if layer.size_bytes > _SIZE_LIMIT_BYTES:
        raise ArtifactError(f"the {kind} of the model has {layer.size_bytes} bytes")
    raw = read_blob(layer.digest)
    try:
        data = json.loads(raw)
        return Attachment(kind, str(data["subject"]), str(data["model"]), data["content"])
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise ArtifactError(f"the {kind} of the model is damaged: {exc!r}") from exc
