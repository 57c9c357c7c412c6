"""One release of ours on every contract of Ollama: the same checkpoints, proofs and refusals.

Runs on the daemon in use and on every other version that is installed; CI has the oldest contract
and the newest.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import exports
from fakes.adapters import build_adapter, change_settings
from fakes.exports import (
    SYSTEM,
    Exports,
    damaged,
    tiny_exports,
    undo_permutation,
    without_stop,
)
from fakes.formats import checkpoint_with, source_of
from fakes.private_daemon import PrivateDaemon

from ollama_bridge.client import Client
from ollama_bridge.conversion import convert
from ollama_bridge.daemon.era import NO_ADAPTER, REWRITES_GGUF, has_limit, limits_of
from ollama_bridge.daemon.placement import FileState, place_blob
from ollama_bridge.errors import (
    ModelError,
    ParityError,
    RenderingHiddenError,
    RepetitionError,
    RequestRejectedError,
)
from ollama_bridge.inspection import verify
from ollama_bridge.modelfile import Modelfile
from ollama_bridge.models.sources.resolve import resolve_model
from ollama_bridge.packaging.package import package
from ollama_bridge.reference import ReferenceValues
from ollama_bridge.registration import register
from ollama_bridge.storage.artifacts import GGUFFile
from ollama_bridge.verification import verify_tag
from ollama_bridge.verify.certificate import Certificate

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def client(era: PrivateDaemon) -> Iterator[Client]:
    """A client of it, instead of the shared daemon's."""
    with era.client() as opened:
        yield opened


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """A random two-layer Llama."""
    return tiny_exports(tmp_path_factory.mktemp("eras"), seed=21, system="Be brief.")


def modelfile_of(gguf: GGUFFile, system: str | None) -> Modelfile:
    """The Modelfile of a build; one thread, as two of 0.24 wait by spinning beside other work."""
    modelfile = exports.modelfile_of(gguf, system)
    return replace(modelfile, parameters={**modelfile.parameters, "num_thread": 1})


def manifest_of(era: PrivateDaemon, tag: str) -> dict[str, Any]:
    """What the daemon has stored of a tag."""
    name, _, label = tag.partition(":")
    folder = era.models_dir / "manifests" / "registry.ollama.ai" / "library" / name
    manifest: dict[str, Any] = json.loads((folder / label).read_text())
    return manifest


def digest_of(client: Client, tag: str) -> str | None:
    """Digest of a tag's manifest."""
    return next((model.digest for model in client.list() if model.name == tag), None)


def test_the_real_model_is_proven_in_every_layer(
    smollm: Exports, era: PrivateDaemon, client: Client, tmp_path: Path
) -> None:
    """Prompts, tokens, log-probabilities, ends and greedy answers of SmolLM2; only once."""
    gguf, tag = smollm.gguf("q8_0"), "era-smollm:q8_0"
    modelfile = modelfile_of(gguf, SYSTEM)
    model = register(gguf, modelfile, tag, client=client, out_dir=tmp_path / "out")
    assert digest_of(client, tag) == model.facts["tag_digest"]
    again = register(gguf, modelfile, tag, client=client, out_dir=tmp_path / "out")
    assert again.digest == model.digest
    assert client.chat(tag, "What is the capital of France?").done_reason == "stop"
    certificate = Certificate.read(model.path / "certificate.json")
    assert certificate.passed
    assert certificate.daemon_version == client.version()
    assert certificate.checks[0].numbers["proof"] == "rendered text"
    assert {check.layer for check in certificate.checks} >= {"template", "tokenizer", "tensor"}
    with pytest.raises(RepetitionError) as caught:  # by a stream that ends, or by an error
        client.generate(
            tag,
            "Say no.",
            format={"type": "string", "enum": [" no" * 130]},
            options={"num_predict": 200, "repeat_penalty": 1.0},
        )
    assert caught.value.partial_text.count(" no") > 25
    client.delete(tag)


@pytest.mark.parametrize("name", ["qwen3", "mistral"])
def test_tools_and_thinking_are_proven_on_each_contract(
    name: str, client: Client, tmp_path: Path
) -> None:
    """A synthesised template; the weights' likeliest tokens are special ones as well."""
    checkpoint = checkpoint_with(source_of(name), tmp_path)
    gguf = convert(checkpoint, type="f16", out_dir=tmp_path / "gguf")
    reference = ReferenceValues.read(gguf.reference_path)
    assert set(reference.special_texts) - {token.text for token in reference.end_tokens}
    modelfile = modelfile_of(gguf, None)
    model = register(gguf, modelfile, f"era-{name}", client=client, out_dir=tmp_path / "tag")
    assert Certificate.read(model.path / "certificate.json").passed
    client.delete(model.tag)


def test_a_link_and_an_upload_make_the_same_tag(
    tiny: Exports,
    era: PrivateDaemon,
    client: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The store's file is the artefact's own, unchanged in bytes and time; manifests are equal.

    From 0.30 to 0.34.0 what was uploaded stays beside what is written of it, for an hour.
    """
    rewrites = has_limit(client.version(), REWRITES_GGUF)
    gguf, tag = tiny.gguf("f32"), "era-sent:latest"
    monkeypatch.setenv("OLLAMA_MODELS", str(era.models_dir))
    modelfile = modelfile_of(gguf, "Be brief.")
    before = gguf.gguf_path.stat()
    blob = era.models_dir / "blobs" / gguf.blob_digest.replace(":", "-")
    manifests = []
    for link in (False, True):
        register(gguf, modelfile, tag, client=client, out_dir=tmp_path / f"link-{link}", link=link)
        assert blob.samefile(gguf.gguf_path) == (link and not rewrites)
        manifests.append((digest_of(client, tag), manifest_of(era, tag)))
        client.delete(tag)
    assert manifests[0] == manifests[1]
    assert gguf.gguf_path.stat().st_mtime_ns == before.st_mtime_ns
    assert gguf.gguf_path.read_bytes()  # deleting the tag took the link only


def test_a_restart_leaves_a_placed_blob_alone(
    tiny: Exports, era: PrivateDaemon, tmp_path: Path
) -> None:
    """A daemon prunes blobs without a tag by their age: an old file's link is made young."""
    gguf = tiny.gguf("bf16")
    a_day_ago_s = time.time() - 24 * 3600
    pruning = {"OLLAMA_NOPRUNE": ""}
    with (
        PrivateDaemon(tmp_path / "daemon", binary=era.binary, env=pruning) as private,
        private.client() as opened,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("OLLAMA_MODELS", str(private.models_dir))
        (private.models_dir / "blobs").mkdir(exist_ok=True)
        os.utime(gguf.gguf_path, (a_day_ago_s, a_day_ago_s))
        state = FileState.of(gguf.gguf_path)
        placed = place_blob(opened, gguf.gguf_path, gguf.blob_digest, state=state)
        assert placed is not None
        private.restart()
        assert opened.has_blob(gguf.blob_digest)
        placed.restore_time()
        private.restart()
        assert not opened.has_blob(gguf.blob_digest)
        assert gguf.gguf_path.exists()


def test_a_blob_that_was_pruned_is_sent_again(
    tiny: Exports,
    era: PrivateDaemon,
    client: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Gone between its sending and ``create``: the daemon's own complaint is understood."""
    gguf = tiny.gguf("f32")
    blob = era.models_dir / "blobs" / gguf.blob_digest.replace(":", "-")
    create, asked = client.create, []

    def prune_first(request: dict[str, Any]) -> None:
        asked.append(request)
        if len(asked) == 1:
            blob.unlink()
        create(request)

    monkeypatch.setattr(client, "create", prune_first)
    register(
        gguf, modelfile_of(gguf, "Be brief."), "era-pruned", client=client, out_dir=tmp_path / "out"
    )
    assert len(asked) == 2
    client.delete("era-pruned")


def test_an_interrupted_upload_leaves_nothing(
    era: PrivateDaemon, client: Client, tmp_path: Path
) -> None:
    """Broken off in the middle, the store is as it was, and the same upload succeeds."""
    content = os.urandom(16 << 20)
    (tmp_path / "file").write_bytes(content)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    blobs = era.models_dir / "blobs"
    before = set(blobs.iterdir())

    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.upload_blob(tmp_path / "file", digest, on_progress=interrupt)
    deadline_s = time.monotonic() + 10
    while set(blobs.iterdir()) != before and time.monotonic() < deadline_s:
        time.sleep(0.05)  # the daemon finds the connection closed a little later
    assert set(blobs.iterdir()) == before
    assert not client.has_blob(digest)
    client.upload_blob(tmp_path / "file", digest)
    assert client.has_blob(digest)


def test_a_tag_is_replaced_only_by_what_passed(
    tiny: Exports, client: Client, tmp_path: Path
) -> None:
    """A better version takes the tag, a wrong one does not, a forced one goes beside it."""
    gguf, tag = tiny.gguf("f16"), "era-replaced:latest"
    modelfile = modelfile_of(gguf, "Be brief.")

    def make(modelfile: Modelfile, name: str, *, force: bool = False) -> str:
        model = register(gguf, modelfile, tag, client=client, out_dir=tmp_path / name, force=force)
        return model.tag

    make(modelfile, "first")
    first = digest_of(client, tag)
    make(replace(modelfile, license="MIT"), "second")
    second = digest_of(client, tag)
    assert second not in (None, first)
    assert verify_tag(tag, client=client).passed
    with pytest.raises(ParityError, match="previous version stays"):
        make(without_stop(modelfile), "third")
    assert make(without_stop(modelfile), "forced", force=True) == f"{tag}-unverified"
    assert digest_of(client, tag) == second
    failure = verify_tag(f"{tag}-unverified", client=client).first_failure
    assert failure is not None
    assert failure.layer == "stop"


@pytest.mark.parametrize(
    ("fault", "layer"),
    [("weights", "tensor"), ("system", "template"), ("stop", "stop"), ("sampling", "sampling")],
)
def test_a_wrong_export_is_refused(
    tiny: Exports, client: Client, tmp_path: Path, fault: str, layer: str
) -> None:
    """Each layer's fault is named on each contract."""
    gguf = tiny.gguf("f16")
    modelfile = modelfile_of(gguf, "Be brief.")
    match fault:
        case "weights":
            gguf = damaged(gguf, tmp_path / "bad", undo_permutation)
        case "system":
            modelfile = replace(modelfile, system=None)
        case "stop":
            modelfile = without_stop(modelfile)
        case _:
            kept = {name: modelfile.parameters[name] for name in ("stop", "num_thread")}
            modelfile = replace(modelfile, parameters=kept)
    with pytest.raises(ParityError, match="no tag was made") as caught:
        register(gguf, modelfile, "era-wrong", client=client, out_dir=tmp_path / "out")
    assert caught.value.layer == layer
    assert not any(model.name.startswith("ollama-bridge/") for model in client.list())


def test_prompts_are_proven_without_the_rendering_flag(
    tiny: Exports, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the undocumented flag gone, counts and next tokens would tell right from wrong."""

    def hidden(*_: object, **__: object) -> str:
        raise RenderingHiddenError("gone")

    monkeypatch.setattr(client, "render", hidden)
    gguf = tiny.gguf("f16")
    modelfile = modelfile_of(gguf, "Be brief.")
    model = register(gguf, modelfile, "era-counted", client=client, out_dir=tmp_path / "a")
    assert "(by token counts)" in str(model.facts["verdict"])
    with pytest.raises(ParityError, match="does not show its text") as caught:
        register(
            gguf,
            replace(modelfile, system=None),
            "era-counted",
            client=client,
            out_dir=tmp_path / "b",
        )
    assert caught.value.layer == "template"


def test_text_and_api_make_the_same_manifest(
    tiny: Exports, era: PrivateDaemon, client: Client, tmp_path: Path
) -> None:
    """``ollama create -f`` with our text and our request make the same layers and config."""
    gguf = tiny.gguf("f16")
    modelfile = replace(modelfile_of(gguf, 'Say "no".\n\nTwice.'), license="MIT")
    (tmp_path / "Modelfile").write_text(modelfile.to_text(), encoding="utf-8", newline="")
    subprocess.run(
        [str(era.binary), "create", "era-text:cli", "-f", str(tmp_path / "Modelfile")],
        env={"OLLAMA_HOST": era.host, "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        check=True,
        capture_output=True,
    )
    client.create(modelfile.to_request("era-text:api", blob_digest=gguf.blob_digest))
    by_text, by_api = manifest_of(era, "era-text:cli"), manifest_of(era, "era-text:api")
    assert by_text["config"] == by_api["config"]
    assert contents(by_text) == contents(by_api)


def contents(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """Kind and digest of every layer: the name of the file that it came from is no content."""
    return sorted((layer["mediaType"], layer["digest"]) for layer in manifest["layers"])


@pytest.mark.parametrize(
    ("what", "extra"),
    [
        ("accept a LoRA ADAPTER", {"adapters": {"adapter.gguf": "{blob}"}}),
        ("quantize a GGUF", {"quantize": "q8_0"}),
    ],
)
def test_the_table_of_limits_is_what_the_daemon_does(
    tiny: Exports, client: Client, what: str, extra: dict[str, Any]
) -> None:
    """What the table says a version cannot do is refused by it, and the rest is not."""
    gguf = tiny.gguf("f16")
    client.upload_blob(gguf.gguf_path, gguf.blob_digest)
    filled = json.loads(json.dumps(extra).replace("{blob}", gguf.blob_digest))
    request = {"model": "era-limit", "files": {"m.gguf": gguf.blob_digest}, **filled}
    if any(limit.what == what for limit in limits_of(client.version())):
        with pytest.raises(RequestRejectedError):
            client.create(request)
    else:
        client.create(request)
        client.delete("era-limit")


def test_a_packaged_adapter_is_served_as_what_merging_gives(
    tiny: Exports, era: PrivateDaemon, client: Client, tmp_path: Path
) -> None:
    """On top of its base where the daemon can, else merged, and said; proven either way."""
    folder = build_adapter(tiny.checkpoint.path, tmp_path / "adapter", use_rslora=True)
    change_settings(folder, base_model_name_or_path=str(tiny.checkpoint.path))
    run_dir = tmp_path / "run"
    model = package(
        str(folder),
        "era-adapter",
        recipe_modelfile={"parameters": {"num_thread": 1}},
        system="Be brief.",
        adapter=True,
        gguf_type="f32",
        out_dir=run_dir,
        host=era.host,
    )
    assert model.facts["passed"]
    assert verify_tag(model.tag, client=client).passed
    adapted = verify(model.tag, against=str(folder), out_dir=tmp_path / "verify", host=era.host)
    assert adapted.passed, adapted.first_failure
    gguf = GGUFFile.open(run_dir / "gguf-f32")
    merges = has_limit(client.version(), NO_ADAPTER)
    said = f"Ollama {client.version()} accepts no LoRA adapter: it is merged"
    assert (said in (run_dir / "events.jsonl").read_text()) == merges
    assert ("ADAPTER" in client.show(model.tag).modelfile) == (not merges)
    if not merges:
        # The base alone is not what was trained, and the written Modelfile names both.
        with pytest.raises(ModelError, match="served with an ADAPTER"):
            resolve_model(f"ollama:{model.tag}", cache_dir=tmp_path / "cache", client=client)
        plain = modelfile_of(gguf, "Be brief.").to_request("era-base", blob_digest=gguf.blob_digest)
        client.create(plain)
        failure = verify_tag("era-base", client=client).first_failure
        assert failure is not None
        assert failure.layer == "tensor"
        client.delete("era-base")
        create_from_file(era, model.path, "era-again")
        assert digest_of(client, "era-again:latest") is not None
        assert verify_tag("era-again", client=client).passed
        client.delete("era-again")
    client.delete(model.tag)


def create_from_file(era: PrivateDaemon, folder: Path, tag: str) -> None:
    """``ollama create TAG -f Modelfile`` in the artefact's own folder."""
    subprocess.run(
        [str(era.binary), "create", tag, "-f", "Modelfile"],
        cwd=folder,
        env={"OLLAMA_HOST": era.host, "HOME": str(folder), "PATH": "/usr/bin:/bin"},
        check=True,
        capture_output=True,
    )
