"""From a daemon's store to a registry, as far as no real ones are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from fakes.daemon import FakeDaemon
from fakes.registry import REFERENCE, MemoryRegistry, layer_of, manifest_of

from ollama_bridge.errors import DaemonError
from ollama_bridge.publishing.provenance import Provenance
from ollama_bridge.publishing.publication import Publication, publish
from ollama_bridge.registry.attachments import Kind, attach, media_type_of
from ollama_bridge.registry.manifest import Manifest, digest_bytes, parse_manifest
from ollama_bridge.registry.upload import Blob

KINDS: tuple[Kind, ...] = ("card", "certificate", "lineage")
WEIGHTS, CONFIG = b"GGUF weights", b"{}"


class Stored:
    """A daemon whose store is on this machine, and a registry.

    Attributes:
        daemon: Has the tag ``m:latest``.
        registry: In memory.
    """

    def __init__(self, daemon: FakeDaemon, store: Path) -> None:
        self.daemon = daemon
        self.registry = MemoryRegistry()
        self._store = store

    def hold(self, manifest: Manifest, contents: Sequence[bytes]) -> None:
        """Make it what the tag is."""
        raw = manifest.to_bytes()
        self.daemon.models = {"m:latest": digest_bytes(raw).removeprefix("sha256:")}
        named = self._store / "manifests" / "registry.ollama.ai" / "library" / "m" / "latest"
        named.parent.mkdir(parents=True, exist_ok=True)
        named.write_bytes(raw)
        blobs = self._store / "blobs"
        blobs.mkdir(exist_ok=True)
        for content in contents:
            (blobs / digest_bytes(content).replace(":", "-")).write_bytes(content)

    def publish(self, *, card: bool = True) -> tuple[Publication, list[str]]:
        """Publish it; also returns the kinds of the papers that were published."""
        done = publish("m", str(REFERENCE), card=card, host=self.daemon.host)
        published = parse_manifest(self.registry.manifests["1"], where="registry")
        types = {media_type_of(kind): kind for kind in KINDS}
        return done, [types[layer.media_type] for layer in published.own_layers()]


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stored]:
    """See :class:`Stored`."""
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "store"))
    with FakeDaemon() as daemon:
        found = Stored(daemon, tmp_path / "store")
        monkeypatch.setattr(
            "ollama_bridge.publishing.publication.RegistrySession",
            lambda *_, **__: found.registry.session(),
        )
        yield found


def papers_of(manifest: Manifest) -> list[Blob]:
    """As their maker wrote them."""
    return [attach(manifest, kind, f"the {kind}") for kind in KINDS]


@pytest.mark.parametrize("card", [True, False])
def test_papers_travel_on(stored: Stored, *, card: bool) -> None:
    """A model that was pulled and is published elsewhere is the same, with the proof of its maker.

    No run here made it, and a card of ours would know nothing.
    """
    manifest = manifest_of(WEIGHTS, CONFIG)
    papers = papers_of(manifest)
    carried = manifest.with_layers(blob.layer for blob in papers)
    stored.hold(carried, [WEIGHTS, CONFIG, *(blob.content for blob in papers)])
    done, kinds = stored.publish(card=card)
    assert kinds == list(KINDS)
    assert done.digest == digest_bytes(carried.to_bytes())
    assert done.added == ()


@pytest.mark.parametrize("card", [True, False])
@pytest.mark.parametrize("why", ["of another model", "damaged"])
def test_papers_that_say_nothing_of_the_model_go(stored: Stored, why: str, *, card: bool) -> None:
    """It was made FROM a published one, or somebody wrote nonsense into it."""
    manifest = manifest_of(WEIGHTS, CONFIG)
    papers = papers_of(manifest_of(b"GGUF others"))
    contents = [blob.content for blob in papers]
    layers = [blob.layer for blob in papers]
    if why == "damaged":
        contents = [b"{", b"[]", b"x"]
        layers = [
            layer_of(content, media_type_of(kind))
            for content, kind in zip(contents, KINDS, strict=True)
        ]
    stored.hold(manifest.with_layers(layers), [WEIGHTS, CONFIG, *contents])
    done, kinds = stored.publish(card=card)
    assert kinds == (["card"] if card else [])
    assert len(done.added) == len(kinds)


def test_a_tag_that_is_made_anew_meanwhile(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof that was looked up is not of the model that would be sent with it."""
    stored.hold(manifest_of(WEIGHTS, CONFIG), [WEIGHTS, CONFIG])

    def find(*_: object, **__: object) -> Provenance:
        stored.hold(manifest_of(b"GGUF others", CONFIG), [b"GGUF others", CONFIG])
        return Provenance()

    monkeypatch.setattr("ollama_bridge.publishing.publication.find_provenance", find)
    with pytest.raises(DaemonError, match="was replaced while"):
        stored.publish()
    assert not stored.registry.asked
    monkeypatch.setattr(
        "ollama_bridge.publishing.publication.find_provenance", lambda *_, **__: Provenance()
    )
    stored.publish()


def test_only_what_was_sent_is_counted(stored: Stored) -> None:
    """Of a registry that has the weights, all but them; of the daemon's push none is told."""
    manifest = manifest_of(WEIGHTS, CONFIG)
    stored.hold(manifest, [WEIGHTS, CONFIG])
    stored.registry.store(WEIGHTS)
    done, _ = stored.publish(card=False)
    assert (done.sent_bytes, done.size_bytes) == (len(CONFIG), len(WEIGHTS) + len(CONFIG))
    pushed = publish("m", str(REFERENCE), way="daemon", host=stored.daemon.host)
    assert (pushed.digest, pushed.size_bytes, pushed.sent_bytes) == (None, None, None)
