"""A tag's files, made again without the daemon's store."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from ollama_bridge.client import ModelDetails
from ollama_bridge.publishing.provenance import Made, Provenance
from ollama_bridge.publishing.replica import rebuild
from ollama_bridge.storage.artifacts import Work
from ollama_bridge.storage.drafts import open_draft

WEIGHTS = b"GGUF weights"
DIGEST = f"sha256:{hashlib.sha256(WEIGHTS).hexdigest()}"
REQUEST = {
    "model": "m:latest",
    "files": {"model.gguf": DIGEST},
    "template": "{{ .Prompt }}<|im_end|>",
    "system": "Be brief.",
    "license": "MIT",
    "parameters": {"num_ctx": 512, "repeat_penalty": 1.0, "top_p": 0.9, "stop": ["<|im_end|>"]},
}
DETAILS = ModelDetails(
    "",
    "",
    "",
    "",
    {},
    (),
    {
        "details": {
            "format": "gguf",
            "family": "llama",
            "families": ["llama"],
            "parameter_size": "99K",
            "quantization_level": "F16",
        }
    },
)
# What the daemon (0.34.4) makes of such a request.
CONFIG = (
    b'{"model_format":"gguf","model_family":"llama","model_families":["llama"],'
    b'"model_type":"99K","file_type":"F16"}\n'
)
PARAMETERS = b'{"num_ctx":512,"repeat_penalty":1,"stop":["\\u003c|im_end|\\u003e"],"top_p":0.9}\n'


def entry(media_type: str, content: bytes) -> str:
    """A layer as it stands in the daemon's manifest."""
    digest = hashlib.sha256(content).hexdigest()
    return f'{{"mediaType":"{media_type}","digest":"sha256:{digest}","size":{len(content)}}}'


def tag_digest() -> str:
    """Digest of the daemon's manifest, spelled out."""
    image = "application/vnd.ollama.image"
    weights = entry(f"{image}.model", WEIGHTS)[:-1] + ',"from":"model.gguf"}'
    layers = [
        weights,
        entry(f"{image}.template", str(REQUEST["template"]).encode()),
        entry(f"{image}.system", b"Be brief."),
        entry(f"{image}.license", b"MIT"),
        entry(f"{image}.params", PARAMETERS),
    ]
    config = entry("application/vnd.docker.container.image.v1+json", CONFIG)
    text = (
        '{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",'
        f'"config":{config},"layers":[{",".join(layers)}]}}\n'
    )
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def provenance(tmp_path: Path) -> Provenance:
    """A GGUF and the tag that was made of it."""
    made = []
    for kind, name, text in (
        ("gguf", "model.gguf", WEIGHTS.decode()),
        ("registered_model", "request.json", json.dumps(REQUEST)),
    ):
        with open_draft(tmp_path / kind, Work(kind, "test", 1)) as draft:
            (draft.path / name).write_text(text)
            made.append(Made(tmp_path / kind, draft.commit()))
    return Provenance(lineage=tuple(made))


def test_it_is_what_the_daemon_has(provenance: Provenance) -> None:
    """To the byte, or it would have another digest."""
    found = rebuild(provenance, DETAILS, tag_digest())
    assert found is not None
    manifest, blobs = found
    assert [blob.layer for blob in blobs] == [*manifest.layers, manifest.config]
    for blob in blobs:
        assert f"sha256:{hashlib.sha256(blob.read(0, 10**6)).hexdigest()}" == blob.layer.digest


def test_anything_else_is_not_published(provenance: Provenance) -> None:
    """Another tag, another daemon's way, or artefacts that are gone."""
    assert rebuild(provenance, DETAILS, "0" * 64) is None
    other = {"details": {**DETAILS.raw["details"], "parameter_size": "99.0K"}}
    details = ModelDetails("", "", "", "", {}, (), other)
    assert rebuild(provenance, details, tag_digest()) is None
    details = ModelDetails("", "", "", "", {}, (), {"details": None})
    assert rebuild(provenance, details, tag_digest()) is None
    assert rebuild(Provenance(), DETAILS, tag_digest()) is None
    assert rebuild(Provenance(lineage=provenance.lineage[:1]), DETAILS, tag_digest()) is None
    (provenance.lineage[1].path / "request.json").write_text("{}")
    assert rebuild(provenance, DETAILS, tag_digest()) is None
