"""Manifests: hostile ones are refused, good ones keep their bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes.registry import layer_of, manifest_of

from ollama_bridge.errors import RegistryContentError
from ollama_bridge.registry.manifest import LICENSE_TYPE, OWN_TYPES, Manifest, parse_manifest

# As the daemon (0.34.4) pushed it.
_PUSHED = (
    b'{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",'
    b'"config":{"mediaType":"application/vnd.docker.container.image.v1+json","digest":'
    b'"sha256:bc53936bb6ebce256fd4736a2c6fa9c5e23fc1d8fecbd9a37b451fd0bd588a6e","size":111},'
    b'"layers":[{"mediaType":"application/vnd.ollama.image.model","digest":'
    b'"sha256:ed6944f53d8b5f6e4fda1dc530b6443bf9ceb3cbbaf06888b726710ebda7a880","size":241056,'
    b'"from":"model.gguf"},{"mediaType":"application/vnd.ollama.image.system","digest":'
    b'"sha256:213c22ed7234eb11116e1e88f314c73cb3a019b5c87fe224b6ce5665bd9ec50e","size":9}]}'
)


def changed(**layer: Any) -> bytes:
    """A good manifest, but for one layer."""
    data = json.loads(manifest_of().to_bytes())
    data["layers"][0] |= layer
    return json.dumps(data).encode()


def with_top(**fields: Any) -> bytes:
    """A good manifest, but for fields at its top."""
    return json.dumps(json.loads(manifest_of().to_bytes()) | fields).encode()


def test_bytes_are_those_of_ollama() -> None:
    """What is read from the daemon and written again has the digest of the daemon's own push."""
    assert parse_manifest(_PUSHED, where="m").to_bytes() == _PUSHED
    # In the store a newline follows.
    assert parse_manifest(_PUSHED + b"\n", where="m").to_bytes() == _PUSHED


def test_strings_are_escaped_as_go_does() -> None:
    """Go's encoder writes < > & as escapes."""
    raw = changed(name="a<b>&c")
    assert b'"name":"a\\u003cb\\u003e\\u0026c"' in parse_manifest(raw, where="m").to_bytes()


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"<html>", "not JSON"),
        (b"[1]", "not an object"),
        (b"[" * 100_000, "not JSON"),
        (b"1" * 5000, "not JSON"),
        (b" " * (4 * 1024**2 + 1), "more than"),
        (with_top(schemaVersion=1), "schema 1"),
        (with_top(manifests=[]), "several platforms"),
        (with_top(layers=[]), "without a list"),
        (with_top(layers={"a": 1}), "without a list"),
        (with_top(layers=[1]), "layer 1 is not an object"),
        (with_top(layers=[{}] * 10_001), "without a list"),
        (with_top(config=None), "config is not an object"),
        (with_top(config={"digest": "", "size": 0}), "config has the digest"),
        (changed(digest="sha256:../../../etc/passwd"), "digest"),
        (changed(digest="../" * 20), "digest"),
        (changed(digest="sha256:" + "0" * 64 + "\n"), "digest"),
        (changed(digest="sha256:" + "A" * 64), "digest"),
        (changed(digest="sha512:" + "0" * 64), "digest"),
        (changed(digest=["sha256:" + "0" * 64]), "digest"),
        (changed(digest=None), "digest"),
        (changed(size=-1), "size"),
        (changed(size=2**43 + 1), "size"),
        (changed(size=1e3), "size"),
        (changed(size=True), "size"),
        (changed(size="12"), "size"),
        (changed(name="x" * 600), "name"),
        (changed(name="a\x1b[31m"), "name"),
        (changed(mediaType=["application/vnd.ollama.image.model"]), "type"),
        (changed(mediaType="application/vnd.oci.image.layer.v1.tar+gzip"), "not of a model"),
    ],
)
def test_hostile_manifests_are_refused(raw: bytes, reason: str) -> None:
    """Before anything of them is used, with one clear error."""
    with pytest.raises(RegistryContentError, match=reason) as caught:
        parse_manifest(raw, where="ghcr.io/team/m:1")
    assert str(caught.value).startswith("ghcr.io/team/m:1: ")
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_keys_are_read_as_the_daemon_reads_them() -> None:
    """Which is in any case, the last of several: what it opens as a model must not hide there."""
    raw = manifest_of().to_bytes()
    assert parse_manifest(raw.replace(b"mediaType", b"MEDIATYPE"), where="m") == manifest_of()
    for spelling in ("mediaType", "MediaType"):
        doubled = raw.replace(b'"size":12', f'"size":12,"{spelling}":"x"'.encode())
        assert doubled != raw
        with pytest.raises(RegistryContentError, match="appears twice"):
            parse_manifest(doubled, where="m")


def test_one_file_cannot_have_two_sizes() -> None:
    """A digest that stands twice has one size."""
    data = json.loads(manifest_of().to_bytes())
    data["layers"].append({**data["layers"][0], "size": 1})
    with pytest.raises(RegistryContentError, match="two sizes"):
        parse_manifest(json.dumps(data).encode(), where="m")


def test_every_file_counts_once() -> None:
    """Files that stand twice are sent and counted once; the config comes last, as Ollama sends."""
    weights = layer_of(b"weights")
    manifest = Manifest(layer_of(b"{}", "config"), (weights, weights))
    assert [blob.size_bytes for blob in manifest.blobs] == [7, 2]
    assert manifest.size_bytes == 9


def test_own_layers_are_replaced() -> None:
    """What was inherited of ours goes; licences and all else stay, and come once."""
    old, new = layer_of(b"old", f"{OWN_TYPES}card+json"), layer_of(b"new", f"{OWN_TYPES}card+json")
    mit, apache = layer_of(b"MIT", LICENSE_TYPE), layer_of(b"Apache", LICENSE_TYPE)
    manifest = manifest_of().with_layers([old, mit]).with_layers([new, mit, apache])
    kinds = [layer.digest for layer in manifest.layers[1:]]
    assert kinds == [mit.digest, new.digest, apache.digest]
    assert manifest.own_layers() == (new,)


def test_subject_is_what_decides_an_answer() -> None:
    """Licences and our own layers change nothing; weights, prompts and config do."""
    manifest = manifest_of()
    described = manifest.with_layers(
        [layer_of(b"card", f"{OWN_TYPES}card+json"), layer_of(b"MIT", LICENSE_TYPE)]
    )
    assert described.subject == manifest.subject
    system = layer_of(b"Be brief.", "application/vnd.ollama.image.system")
    others = [
        manifest_of(b"others"),
        manifest_of(config=b"{1}"),
        Manifest(manifest.config, (*manifest.layers, system)),
    ]
    assert len({manifest.subject, *(other.subject for other in others)}) == 4


def test_paths_of_a_machine_are_left_out() -> None:
    """Daemons before 0.34 write where a file lay; other sources stay as they are."""
    raw = changed(**{"from": "/home/ada/models/blobs/sha256-00"})
    manifest = parse_manifest(raw, where="m")
    assert manifest.without_paths() == manifest_of()
    named = parse_manifest(changed(**{"from": "model.gguf"}), where="m")
    assert named.without_paths() == named
