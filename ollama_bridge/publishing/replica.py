"""A tag's files without the daemon's store: made again from the artefacts that made the tag.

A daemon that runs as another user may keep its store to itself. What it made of our request can be
computed, and the tag's digest says whether it was computed right: nothing else is published.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ollama_bridge.client import ModelDetails
from ollama_bridge.publishing.provenance import Provenance
from ollama_bridge.registry.attachments import small_blob
from ollama_bridge.registry.manifest import (
    CONFIG_TYPE,
    LICENSE_TYPE,
    MODEL_TYPE,
    Layer,
    Manifest,
    digest_bytes,
    go_json,
)
from ollama_bridge.registry.upload import Blob
from ollama_bridge.storage.artifacts import GGUFFile, RegisteredModel

_TYPES = {
    "template": "application/vnd.ollama.image.template",
    "system": "application/vnd.ollama.image.system",
    "license": LICENSE_TYPE,
}
_PARAMETERS_TYPE = "application/vnd.ollama.image.params"
# Of the daemon's own fields, in its order; by the names under which it shows them.
_CONFIG = {
    "model_format": "format",
    "model_family": "family",
    "model_families": "families",
    "model_type": "parameter_size",
    "file_type": "quantization_level",
}


def rebuild(
    provenance: Provenance, details: ModelDetails, tag_digest: str
) -> tuple[Manifest, list[Blob]] | None:
    """Make manifest and files of a tag again, as Ollama 0.34 makes them.

    Args:
        provenance: Of the tag; its GGUF must still be there.
        details: What the daemon shows of the tag.
        tag_digest: Digest of the tag's manifest in the daemon.

    Returns:
        None where the artefacts are gone, or the result is not exactly what the daemon has.
    """
    tags, ggufs = provenance.of_kind(RegisteredModel.kind), provenance.of_kind(GGUFFile.kind)
    if not tags or not ggufs:
        return None
    try:
        request: dict[str, Any] = json.loads((tags[0].path / "request.json").read_bytes())
        ((name, digest),) = request["files"].items()
        entry = ggufs[0].manifest.files["model.gguf"]
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    weights = Layer(MODEL_TYPE, digest, entry.size_bytes, source=name)
    texts = [
        small_blob(media_type, str(request[key]).encode())
        for key, media_type in _TYPES.items()
        if request.get(key)
    ]
    parameters = request.get("parameters")
    if parameters:
        numbers = {key: _as_go_writes(value) for key, value in parameters.items()}
        texts.append(small_blob(_PARAMETERS_TYPE, _encoded(numbers)))
    shown = details.raw.get("details") or {}
    config = {key: shown.get(name) for key, name in _CONFIG.items()}
    blobs = [
        Blob(weights, ggufs[0].path / "model.gguf"),
        *texts,
        small_blob(CONFIG_TYPE, _encoded(config, sort_keys=False)),
    ]
    layers = [blob.layer for blob in blobs]
    manifest = Manifest(layers[-1], tuple(layers[:-1]))
    content = manifest.to_bytes()
    # The daemon's digest may be with the newline at the end of its file, or without.
    made = {digest_bytes(content), digest_bytes(content + b"\n")}
    return (manifest, blobs) if f"sha256:{tag_digest}" in made else None


def _encoded(value: Mapping[str, Any], *, sort_keys: bool = True) -> bytes:
    """As Go's encoder writes it into a file."""
    return go_json(value, sort_keys=sort_keys) + b"\n"


def _as_go_writes(value: object) -> object:
    """Go has one kind of number in JSON, and writes 1.0 as 1."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
