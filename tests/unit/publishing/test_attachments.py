"""Layers that we add: whom they belong to, and damaged ones."""

from __future__ import annotations

import json

import pytest
from fakes.registry import layer_of, manifest_of

from ollama_bridge.errors import ArtifactError
from ollama_bridge.registry.attachments import attach, read_attachments
from ollama_bridge.registry.manifest import Layer, Manifest


def test_attached_and_read_again() -> None:
    """With the layers in it the manifest is still the one that they were written for."""
    manifest = manifest_of()
    blobs = [attach(manifest, "card", "# Märchen"), attach(manifest, "lineage", [{"a": 1}])]
    described = manifest.with_layers(blob.layer for blob in blobs)
    contents = {blob.layer.digest: blob.content for blob in blobs}
    card, lineage = read_attachments(described, contents.__getitem__)
    assert (card.kind, card.content) == ("card", "# Märchen")
    assert lineage.content == [{"a": 1}]
    assert card.belongs_to(described)


def test_inherited_layers_belong_to_another() -> None:
    """Other weights, or the same with another prompt: both are another model."""
    manifest = manifest_of()
    blob = attach(manifest, "card", "text")
    system = layer_of(b"Be rude.", "application/vnd.ollama.image.system")
    for other in (manifest_of(b"others"), Manifest(manifest.config, (*manifest.layers, system))):
        heir = other.with_layers([blob.layer])
        (found,) = read_attachments(heir, lambda _: blob.content)
        assert not found.belongs_to(heir)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"{}", b'{"subject": "x"}', b"[" * 9999])
def test_damaged_layers(raw: bytes) -> None:
    """One clear error."""
    manifest = manifest_of()
    described = manifest.with_layers([attach(manifest, "card", "text").layer])
    with pytest.raises(ArtifactError, match="the card of the model is damaged"):
        read_attachments(described, lambda _: raw)


def test_huge_layers_are_not_read() -> None:
    """A card of a gigabyte is none."""
    manifest = manifest_of()
    layer = attach(manifest, "card", "text").layer
    huge = Layer(layer.media_type, layer.digest, 10**9)
    with pytest.raises(ArtifactError, match="1000000000 bytes"):
        read_attachments(manifest.with_layers([huge]), lambda _: json.dumps({}).encode())
